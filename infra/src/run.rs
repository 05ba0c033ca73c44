//! Where does one run of the program keep what it throws away, and where is what many runs share?

use std::path::{Path, PathBuf};

/// `KASSA_CACHE_DIR`; else `.cache` in a checkout of the project; else the user's cache.
#[must_use]
pub fn cache_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("KASSA_CACHE_DIR").filter(|dir| !dir.is_empty()) {
        return dir.into();
    }
    let here = std::env::current_dir().unwrap_or_else(|_| ".".into());
    if here.join("infra/servers.txt").is_file() {
        return here.join(".cache");
    }
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| home.join(".cache"), PathBuf::from)
        .join("kassa")
}

/// A folder for one run, named after the process. Those of processes that are gone are removed at the next start.
#[derive(Debug)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// # Errors
    /// When the cache cannot be written; the folder is named.
    pub fn new(cache: &Path) -> std::io::Result<Self> {
        let runs = cache.join("run");
        std::fs::create_dir_all(&runs).map_err(naming(&runs))?;
        for entry in std::fs::read_dir(&runs).map_err(naming(&runs))?.flatten() {
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok());
            if pid.is_some_and(|pid| {
                Path::new("/proc/self").exists() && !Path::new(&format!("/proc/{pid}")).exists()
            }) {
                // Another start may be removing it too.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let folder = runs.join(std::process::id().to_string());
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).map_err(naming(&folder))?;
        Ok(Self(folder))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

fn naming(folder: &Path) -> impl FnOnce(std::io::Error) -> std::io::Error {
    move |error| {
        let text = format!("{}: {error}; KASSA_CACHE_DIR names another", folder.display());
        std::io::Error::new(error.kind(), text)
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file where a folder is wanted");
        let error = RunFolder::new(file.path()).expect_err("a file holds no folder");
        let runs = file.path().join("run");
        assert!(error.to_string().contains(&*runs.to_string_lossy()), "{error}");
    }
}
