//! The file of a store: who may read it, and which observer has it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

use crate::auth::secret::random_id;
use crate::store::StoreError;

/// Attempts to lock a store, and the pause between them.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Makes the directory of a store.
pub(super) fn make_directory(path: &Path) -> Result<(), StoreError> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => {
            std::fs::create_dir_all(dir).map_err(|source| StoreError::Make {
                path: dir.to_owned(),
                source,
            })
        }
        Some(_) | None => Ok(()),
    }
}

/// Makes a file that no other user may read, before SQLite makes one that they may.
pub(super) fn make_private(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    let made = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path);
    made.map(drop).map_err(|source| StoreError::Make {
        path: path.to_owned(),
        source,
    })
}

/// Whether there is such a file.
///
/// # Errors
/// [`StoreError::Open`] if this user may not know.
pub(in crate::store) fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(|source| StoreError::Open {
        path: path.to_owned(),
        source: source.into(),
    })
}

/// Whether there is such a file, and nothing is in it.
pub(in crate::store) fn is_empty(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0)
}

/// Why SQLite cannot open a file: the system says more of that than SQLite does. The process must
/// have no other connection to it: to close a file ends the locks that SQLite has on it.
pub(super) fn cannot_open(path: &Path, error: rusqlite::Error) -> StoreError {
    let source = match OpenOptions::new().read(true).write(true).open(path) {
        Err(source) => source.into(),
        Ok(_) => error.into(),
    };
    let path = path.to_owned();
    StoreError::Open { path, source }
}

/// Makes a new file that no other user may read, all at once: `fill` writes an empty file beside
/// it, which is given its name at the end.
pub(super) fn make_whole(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    let make = |source| StoreError::Make {
        path: path.to_owned(),
        source,
    };
    let is_there = || {
        let text = "there is such a file already";
        make(std::io::Error::new(ErrorKind::AlreadyExists, text))
    };
    if exists(path)? {
        return Err(is_there());
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", &random_id()[..8]));
    let partial = Path::new(&partial);
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600);
    let file = made.open(partial).map_err(make)?;
    let filled = fill(partial).and_then(|()| {
        file.sync_all().map_err(make)?;
        // A link takes nobody's name. Some file systems have none.
        match std::fs::hard_link(partial, path) {
            Ok(()) => {
                let _ = std::fs::remove_file(partial);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(is_there()),
            Err(_) => std::fs::rename(partial, path).map_err(make),
        }
    });
    if filled.is_err() {
        let mut journal = partial.as_os_str().to_owned();
        journal.push("-journal");
        for left in [partial, Path::new(&journal)] {
            let _ = std::fs::remove_file(left);
        }
        return filled;
    }
    // The name, too, outlives a power cut, where the file system can see to that.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let _ = File::open(dir.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all());
    Ok(())
}

/// Says so if other users may read the store: it holds what people write.
pub(super) fn warn_if_readable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if let Ok(found) = std::fs::metadata(path)
        && found.permissions().mode() & 0o077 != 0
    {
        let path = path.display();
        warn!("other users may read what people write: chmod 600 {path}*");
    }
}

/// Whether an observer has locked a store.
pub(in crate::store) fn is_locked(path: &Path) -> bool {
    let Ok(path) = std::fs::canonicalize(path) else {
        return false;
    };
    let mut name = path.into_os_string();
    name.push(".lock");
    let lock = OpenOptions::new().read(true).open(name);
    lock.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Locks a store for one observer: two would not know what the other has acknowledged. The lock
/// ends when the file is dropped. It is named after the file itself, by whatever symbolic links
/// that is reached.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let path = &std::fs::canonicalize(path).map_err(|source| StoreError::Make {
        path: path.to_owned(),
        source,
    })?;
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    make_private(&name)?;
    let make = |source| StoreError::Make {
        path: name.clone(),
        source,
    };
    let file = OpenOptions::new().append(true).open(&name).map_err(make)?;
    for _ in 0..ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A command may be asking whether it is locked.
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(TryLockError::Error(error)) => return Err(make(error)),
        }
    }
    Err(StoreError::InUse(path.to_owned()))
}
