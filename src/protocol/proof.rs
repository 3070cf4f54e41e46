//! The proof that topics read and topics published never meet, made once at start.
//!
//! Owns the search for loops, for overlaps, and for the filters that catch split identifiers.
//! Whether two templates can meet is `template`'s part; what is read and published, `topic_map`'s.

use crate::protocol::template::{Name, Template};

/// Why a set of templates cannot be used together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// What is published there would be received again, for ever.
    #[error(
        "loop: what is published to {published:?} would be received again through {subscribed:?}"
    )]
    Loop {
        /// The template or topic published to.
        published: String,
        /// The template whose filter matches it.
        subscribed: String,
    },
    /// A broker may deliver such a topic twice, and which template is meant is unclear.
    #[error("overlap: one topic can match both {first:?} and {second:?}")]
    Overlap {
        /// One template that is read.
        first: String,
        /// The other template that is read.
        second: String,
    },
}

/// Proves that no topic with permitted identifiers fits two of the templates that are read.
pub(super) fn check_overlaps(read: &[&Template]) -> Result<(), ProofError> {
    for (at, first) in read.iter().enumerate() {
        if let Some(second) = read[at + 1..].iter().find(|second| first.meets(second)) {
            return Err(ProofError::Overlap {
                first: first.as_str().to_owned(),
                second: second.as_str().to_owned(),
            });
        }
    }
    Ok(())
}

/// Proves that nothing published comes back through a filter that is subscribed to.
pub(super) fn check_loops(read: &[&Template], published: &[Template]) -> Result<(), ProofError> {
    for template in read {
        // The broker matches by the filter, which permits reserved words at its names: a topic
        // without names must not match the filter, even where it does not meet the template.
        let filter = template.filter(None);
        let looping = published.iter().find(|published| {
            published.meets(template)
                || (!published.has_names() && filter.matches(published.as_str()))
        });
        if let Some(looping) = looping {
            return Err(ProofError::Loop {
                published: looping.as_str().to_owned(),
                subscribed: template.as_str().to_owned(),
            });
        }
    }
    Ok(())
}

/// The templates of topics in which RabbitMQ has split an identifier at its `.`.
///
/// They are subscribed to, so that such a message is refused and counted rather than lost. A
/// template is left out if it meets one that is read or published, or an earlier one of these.
pub(super) fn split_templates(read: &[&Template], published: &[Template]) -> Vec<Template> {
    let mut splits: Vec<Template> = Vec::new();
    for template in read {
        for name in [Name::InboxOf, Name::ConversWith, Name::ClientId] {
            let Some(split) = template.split_at(name) else {
                continue;
            };
            let mut taken = read.iter().copied().chain(published).chain(&splits);
            if !taken.any(|other| other.meets(&split)) {
                splits.push(split);
            }
        }
    }
    splits
}

#[cfg(test)]
mod tests {
    use crate::protocol::control_topic::Controls;
    use crate::protocol::layout::Layout;
    use crate::protocol::testing::{custom, without_controls};
    use crate::protocol::topic::TopicName;
    use crate::protocol::topic_map::{TopicMap, TopicMapError};

    use super::*;

    #[test]
    fn a_layout_that_would_receive_a_notification_is_refused() {
        let mine = custom(
            "apps/{app}/users/{sender}/archived_conversations/{recipient}/clientadded",
            "in/{app}/{recipient}/{sender}/x",
        )
        .unwrap();
        let error = TopicMap::new(vec![mine.clone()], vec![], &[], Controls::Served).unwrap_err();
        assert!(
            matches!(error, TopicMapError::Unsound(ProofError::Loop { .. })),
            "{error}"
        );
        assert!(without_controls(vec![mine]).is_ok());
    }

    #[test]
    fn a_layout_that_loops_is_refused_with_both_templates() {
        let looping = custom(
            "chat/{app}/{sender}/{recipient}/box",
            "chat/{app}/{recipient}/{sender}/box",
        )
        .unwrap();
        assert_eq!(
            without_controls(vec![looping]).unwrap_err().to_string(),
            "loop: what is published to \"chat/{app}/{recipient}/{sender}/box\" \
             would be received again through \"chat/{app}/{sender}/{recipient}/box\""
        );
        let rejects_into_itself = custom(
            "c/{app}/{sender}/{recipient}/clientrejected",
            "c/{app}/{recipient}/{sender}/in",
        )
        .unwrap();
        assert_eq!(
            without_controls(vec![rejects_into_itself]).unwrap_err(),
            TopicMapError::Unsound(ProofError::Loop {
                published: "c/{app}/{recipient}/{sender}/clientrejected".into(),
                subscribed: "c/{app}/{sender}/{recipient}/clientrejected".into()
            })
        );
        let fixed = TopicName::parse("apps/dead/users/a/messages/b/outgoing").unwrap();
        let error = TopicMap::new(
            Layout::built_in("chat21-v1").unwrap(),
            vec![],
            &[fixed],
            Controls::Off,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "loop: what is published to \"apps/dead/users/a/messages/b/outgoing\" \
             would be received again through \
             \"apps/{app}/users/{sender}/messages/{recipient}/outgoing\""
        );
    }

    #[test]
    fn layouts_that_overlap_are_refused_with_both_templates() {
        let one = custom(
            "c/{app}/{sender}/{recipient}/out",
            "c/{app}/{recipient}/{sender}/in",
        )
        .unwrap();
        let two = custom(
            "c/{app}/{sender}/bob/{recipient}",
            "c/{app}/{recipient}/{sender}/in",
        )
        .unwrap();
        assert!(without_controls(vec![one.clone()]).is_ok());
        assert_eq!(
            without_controls(vec![one, two]).unwrap_err().to_string(),
            "overlap: one topic can match both \"c/{app}/{sender}/{recipient}/out\" \
             and \"c/{app}/{sender}/bob/{recipient}\""
        );
        let v1 = Layout::built_in("chat21-v1").unwrap().remove(0);
        let near = custom(
            "apps/{app}/users/{sender}/{recipient}/alice/outgoing",
            "c/{app}/{recipient}/{sender}/in",
        )
        .unwrap();
        assert!(
            without_controls(vec![v1.clone(), near]).is_ok(),
            "\"messages\" is reserved, so these never meet"
        );
        let meets = custom(
            "apps/{app}/users/{sender}/messages/{recipient}/{app}",
            "c/{app}/{recipient}/{sender}/in",
        );
        assert_eq!(
            meets.unwrap_err().to_string(),
            "template \"apps/{app}/users/{sender}/messages/{recipient}/{app}\": \
             {app} stands 2 times in it, not once"
        );
    }
}
