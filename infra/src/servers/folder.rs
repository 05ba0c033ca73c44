//! How is a folder of a server made and removed?

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::ServerError;

/// Makes the folder for us alone, and those on the way as usual: a server that had to give up root must pass through
/// them. One that is there is taken as it is.
pub(crate) fn private_folder(dir: &Path) -> Result<(), ServerError> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(ServerError::io("create", parent))?;
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(ServerError::io("create", dir))
}

/// Removes the folder with all that is in it; none is fine too.
pub(crate) fn remove_folder(dir: &Path) -> Result<(), ServerError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(ServerError::io("remove", dir)),
    }
}
