use std::fs;
use std::io;
use std::path::Path;

/// Removes a folder that we made, with all in it; one that is not there is no error.
pub(crate) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
