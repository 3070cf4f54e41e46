//! The file of a store: who may read it, and which observer has it.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::store::StoreError;

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
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(make(error)),
    }
}
