//! What a user changes in one of their conversations (`protocol.md`, section 4).
//!
//! Owns which fields no patch may change. Leaves what a patch makes of a stored conversation to
//! `rules`.

use crate::protocol::json::{Members, ObjectError, parse_object};

/// Fields that identify a conversation or say who wrote what: no patch changes them.
const IDENTITY: [&str; 7] = [
    "app_id",
    "conversWith",
    "key",
    "message_id",
    "recipient",
    "sender",
    "timelineOf",
];

/// The changes a user asks for, as fields of an object.
#[derive(Clone, Debug)]
pub struct Patch(Members);

impl Patch {
    /// Reads a payload, and drops the fields that no patch may change.
    ///
    /// # Errors
    /// [`ObjectError`], if the payload is no JSON object.
    pub fn parse(payload: &[u8]) -> Result<Self, ObjectError> {
        let mut fields = parse_object(payload)?;
        for name in IDENTITY {
            fields.remove(name);
        }
        Ok(Self(fields))
    }

    /// Whether it sets flags, and nothing else.
    pub(crate) fn is_of_flags(&self) -> bool {
        let is_flag = |name: &str, value: &str| {
            matches!(name, "is_new" | "archived") && matches!(value, "true" | "false")
        };
        self.0
            .iter()
            .all(|(name, value)| is_flag(name, value.get()))
    }

    /// The fields to set.
    pub(crate) fn fields(&self) -> &Members {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_that_is_no_object_is_refused() {
        assert_eq!(Patch::parse(b"[]").err(), Some(ObjectError::NotAnObject));
        assert_eq!(Patch::parse(b"").err(), Some(ObjectError::NotJson));
    }

    #[test]
    fn a_patch_changes_no_identity() {
        let patch = Patch::parse(br#"{"text":"mine","sender":"eve","key":"x"}"#).unwrap();
        let names: Vec<_> = patch.fields().keys().collect();
        assert_eq!(names, ["text"]);
    }
}
