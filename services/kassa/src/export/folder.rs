//! Where does an export go? Into a folder of its own, that nobody else reads, and out of it again when it fails: what was begun
//! is no export, and stands in the way of the next.

use std::{
    cell::RefCell,
    fs,
    io::{self, BufWriter, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::exit::Ended;

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// It was not there before.
    made: bool,
    /// What was written to it so far.
    files: RefCell<Vec<PathBuf>>,
    kept: bool,
}

impl Folder {
    /// # Errors
    /// [`Ended`] where anything is in it: two exports in one would be neither.
    pub(super) fn prepare(path: &Path) -> anyhow::Result<Self> {
        let wrong = |error: io::Error| {
            Ended::new(Ended::USAGE, format!("--to {}: {error}", path.display()))
                .hint("give a folder that can be written, or one that is not there yet")
        };
        let made = match fs::read_dir(path) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    let text = format!("--to {}: the folder is not empty", path.display());
                    return Err(Ended::new(Ended::USAGE, text)
                        .hint("give one that is not there yet: an export never overwrites another")
                        .into());
                }
                false
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(path)
                    .map_err(wrong)?;
                true
            }
            Err(error) => return Err(wrong(error).into()),
        };
        Ok(Self {
            path: path.to_owned(),
            made,
            files: RefCell::default(),
            kept: false,
        })
    }

    /// It is whole, and stays.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }

    pub(super) fn file(&self, name: &str) -> anyhow::Result<File> {
        let path = self.path.join(name);
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        self.files.borrow_mut().push(path);
        Ok(File {
            to: BufWriter::with_capacity(1 << 18, file),
            lines: 0,
        })
    }
}

impl Drop for Folder {
    /// Own files alone: what somebody else put there meanwhile keeps the folder.
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for file in self.files.borrow().iter() {
            let _ = fs::remove_file(file);
        }
        if self.made {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

#[derive(Debug)]
pub(super) struct File {
    to: BufWriter<fs::File>,
    lines: u64,
}

impl File {
    pub(super) fn line(&mut self, text: &[u8]) -> io::Result<()> {
        self.to.write_all(text)?;
        self.to.write_all(b"\n")?;
        self.lines += 1;
        Ok(())
    }

    /// Text that has its lines' ends in it.
    pub(super) fn write(&mut self, text: &[u8]) -> io::Result<()> {
        self.lines += text.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.to.write_all(text)
    }

    /// The number of lines.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.to.flush()?;
        Ok(self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_and_not_finished_leaves_nothing_behind() {
        let base = std::env::temp_dir().join(format!("kassa-export-{}", uuid::Uuid::new_v4()));
        let folder = Folder::prepare(&base).unwrap();
        folder.file("events.ndjson").unwrap().finish().unwrap();
        drop(folder);
        assert!(!base.exists(), "it was made for the export");

        fs::create_dir(&base).unwrap();
        let folder = Folder::prepare(&base).unwrap();
        folder.file("events.ndjson").unwrap().finish().unwrap();
        fs::write(base.join("answers.ndjson"), "").unwrap();
        drop(folder);
        let left: Vec<_> = fs::read_dir(&base).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "what somebody else put there stays");
        fs::remove_file(base.join("answers.ndjson")).unwrap();

        let folder = Folder::prepare(&base).unwrap();
        folder.file("meta.json").unwrap().finish().unwrap();
        folder.keep();
        assert!(base.join("meta.json").exists());
        assert!(
            Folder::prepare(&base).is_err(),
            "an export never overwrites another"
        );
        fs::remove_dir_all(&base).unwrap();
    }
}
