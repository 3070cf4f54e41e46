//! The file of a store: who may read it, and which observer has it.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

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

/// Makes a new file that no other user may read.
pub(super) fn make_new(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    made.map(drop).map_err(|source| StoreError::Make {
        path: path.to_owned(),
        source,
    })
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
