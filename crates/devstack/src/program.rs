use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Where the program of this name is that PATH leads to.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| {
        fs::metadata(file).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    })
}
