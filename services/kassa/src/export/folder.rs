//! Where does an export go? Into a folder of its own, that nobody else reads.

use std::{
    fs,
    io::{self, BufWriter, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::exit::Ended;

#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// # Errors
    /// [`Ended`] where anything is in it: two exports in one would be neither.
    pub(super) fn prepare(path: &Path) -> anyhow::Result<Self> {
        let wrong = |error: io::Error| {
            Ended::new(Ended::USAGE, format!("--to {}: {error}", path.display()))
                .hint("give a folder that can be written, or one that is not there yet")
        };
        match fs::read_dir(path) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    let text = format!("--to {}: the folder is not empty", path.display());
                    return Err(Ended::new(Ended::USAGE, text)
                        .hint("give one that is not there yet: an export never overwrites another")
                        .into());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(path)
                    .map_err(wrong)?;
            }
            Err(error) => return Err(wrong(error).into()),
        }
        Ok(Self(path.to_owned()))
    }

    pub(super) fn file(&self, name: &str) -> anyhow::Result<File> {
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.0.join(name))?;
        Ok(File {
            to: BufWriter::with_capacity(1 << 18, file),
            lines: 0,
        })
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
