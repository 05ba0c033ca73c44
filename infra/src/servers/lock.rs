//! Who owns a server's folder?
//!
//! A lock on a file in it, held by the owner *and* inherited by the server: so the folder is free only when a server
//! that outlives a killed owner for a moment is gone too.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, test_kill_process};

use super::ServerError;

/// A killed owner's server needs under 0.1 s to stop; this leaves room for a slow disk and a last checkpoint.
const LAST_OWNERS_SERVER_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// The folder's lock, released on drop.
#[derive(Debug)]
pub(crate) struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Takes the lock of `dir`, which must exist. Waits only for what a dead owner left running.
    ///
    /// # Errors
    /// [`ServerError::InUse`] at once if the owner is alive, or when a dead owner's server does not go away.
    pub(crate) fn take(dir: &Path) -> Result<Self, ServerError> {
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(ServerError::io("open", &path))?;
        let deadline = Instant::now() + LAST_OWNERS_SERVER_MAX;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    let owner = owner(&mut file).map_err(ServerError::io("read", &path))?;
                    let alive = owner
                        .is_some_and(|pid| !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH)));
                    if alive || Instant::now() >= deadline {
                        let owner = owner.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
                        return Err(ServerError::InUse {
                            dir: dir.to_path_buf(),
                            owner,
                        });
                    }
                    thread::sleep(POLL);
                }
                Err(TryLockError::Error(source)) => {
                    return Err(ServerError::Io {
                        action: "lock",
                        path,
                        source,
                    });
                }
            }
        }
        // Locked: from here the file names us, for whoever comes second.
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(ServerError::io("write", &path))?;
        Ok(Self { file })
    }

    /// The same lock as a file that a child can inherit.
    pub(crate) fn share(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread is just starting holds a copy until its exec.
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "could not release the lock of a server's folder");
        }
    }
}

/// The process id that the last owner wrote, none while a new owner is writing it.
fn owner(file: &mut File) -> std::io::Result<Option<Pid>> {
    let mut text = String::new();
    file.rewind()?;
    // A process id has at most ten digits.
    file.take(16).read_to_string(&mut text)?;
    Ok(text
        .strip_suffix('\n')
        .and_then(|text| text.parse().ok())
        .and_then(Pid::from_raw))
}
