//! The calls into the engine library.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::signals::StopPipe;

/// Stack of the engine's main thread: its parser and planner recurse deeply.
const STACK_BYTES: usize = 16 << 20;

/// Why the engine did not run to an ordered end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("cannot load the engine {}: {source}", library.display())]
    Load { library: PathBuf, source: libloading::Error },
    #[error("cannot make the engine's thread: {0}")]
    Thread(#[from] io::Error),
    #[error("the engine failed: {0}")]
    Failed(String),
    #[error("the engine returned without being asked to stop; what it said stands above, or in its log")]
    ReturnedEarly,
    #[error("the engine's thread panicked")]
    Panicked,
}

/// The engine's `local_result_v2`. Only `error` is read; the others hold its place.
#[repr(C)]
struct QueryResult {
    _buffer: *mut c_char,
    _length: usize,
    _vector: *mut c_void,
    _elapsed: f64,
    _rows: u64,
    _bytes: u64,
    error: *mut c_char,
}

type QueryStable = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut QueryResult;

/// Runs the engine with a command line, until its last statement ends.
pub(crate) fn run(library: &Path, line: &[CString], stop: &StopPipe) -> Result<(), EngineError> {
    let answer = thread::scope(|scope| {
        let engine = thread::Builder::new().name("clickhouse".into()).stack_size(STACK_BYTES);
        let engine = engine.spawn_scoped(scope, || call(library, line))?;
        engine.join().unwrap_or(Err(EngineError::Panicked))
    });
    answer?;
    // The engine tells some failures (a locked data folder, a bad configuration) on standard error only, and
    // returns as if all were well.
    if stop.was_asked() { Ok(()) } else { Err(EngineError::ReturnedEarly) }
}

/// Ends the process without running any destructor, those of the library included.
pub(crate) fn exit_at_once(code: u8) -> ! {
    // SAFETY: `_exit` takes any status, touches no memory of ours and does not return.
    unsafe { libc::_exit(c_int::from(code)) }
}

fn call(library: &Path, line: &[CString]) -> Result<(), EngineError> {
    let failed = |source| EngineError::Load { library: library.into(), source };
    // SAFETY: the library's initialisers run here. It is the engine that the caller named, made to be loaded
    // into a foreign process; the stop signals, which are all that we share with it, are set up before.
    let opened = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) }.map_err(failed)?;
    // SAFETY: the symbol is the library's C function of this signature, part of its stable interface.
    let query = *unsafe { opened.get::<QueryStable>(b"query_stable_v2\0") }.map_err(failed)?;
    // Never unloaded: the engine's background threads would run on in unmapped code.
    std::mem::forget(opened);

    let mut pointers: Vec<*mut c_char> = line.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
    let count =
        c_int::try_from(pointers.len()).map_err(|_| EngineError::Failed("too many arguments".into()))?;
    // As in a C `main`: the array ends with a null pointer that is not counted.
    pointers.push(std::ptr::null_mut());
    // SAFETY: `pointers` holds `count` zero-terminated strings and a null pointer, all alive until the call
    // returns; the engine copies them and writes to none.
    let result = unsafe { query(count, pointers.as_mut_ptr()) };
    // SAFETY: null, or a result that the engine made and that nobody has freed.
    let Some(result) = (unsafe { result.as_ref() }) else {
        return Err(EngineError::Failed("it returned no result".into()));
    };
    if result.error.is_null() {
        return Ok(());
    }
    // SAFETY: not null, so a zero-terminated text that lives as long as the result, which is never freed.
    let error = unsafe { CStr::from_ptr(result.error) };
    Err(EngineError::Failed(error.to_string_lossy().into_owned()))
}
