//! The template that a topic which fits none probably means, and where the two differ.
//!
//! Owns a guess for people. What a topic does mean is decided in `topic_map`, and a guess changes
//! nothing about it.

use std::fmt;

use crate::protocol::template::{Template, TemplateLevel};
use crate::protocol::topic_map::TopicMap;

/// Topics with more levels than this are not looked into: they resemble nothing.
const MOST_LEVELS: usize = 32;
/// Differences beyond this are no typing mistake.
const MOST_DIFFERENCES: usize = 3;
/// What a level that is missing or too many costs, where another literal costs up to as much.
const GAP: usize = 100;
/// What a level costs that should be an identifier, and is empty.
const EMPTY: usize = 50;

/// One difference between a topic and a template. Levels are counted from 1, in the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A level is another text than the template's.
    Other {
        /// Which level.
        level: usize,
        /// What stands there.
        is: String,
        /// What should stand there.
        should: String,
    },
    /// The topic lacks a level before this one.
    Missing {
        /// Where it should stand.
        level: usize,
        /// What should stand there: text, or a name in braces.
        should: String,
    },
    /// The topic has a level that the template has not.
    TooMany {
        /// Which level.
        level: usize,
        /// What stands there.
        is: String,
    },
    /// A level is empty where an identifier should stand.
    Empty {
        /// Which level.
        level: usize,
        /// The name in braces.
        should: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other { level, is, should } => {
                write!(f, "level {level} is {is:?}, should be {should:?}")
            }
            Self::Missing { level, should } => {
                write!(f, "level {level} is missing, should be {}", quoted(should))
            }
            Self::TooMany { level: 1, is } if is.is_empty() => {
                f.write_str("it begins with a slash, which the layout does not have")
            }
            Self::TooMany { level, is } => write!(f, "level {level} is {is:?}, and one too many"),
            Self::Empty { level, should } => {
                write!(f, "level {level} is empty, should be {should}")
            }
        }
    }
}

/// Text in quotes; a name stands in its braces.
fn quoted(level: &str) -> String {
    match level.starts_with('{') {
        true => level.to_owned(),
        false => format!("{level:?}"),
    }
}

/// A template that is near to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest<'a> {
    /// The template.
    pub template: &'a Template,
    /// Where the topic differs from it; at least one difference.
    pub differences: Vec<Difference>,
}

impl fmt::Display for Nearest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let differences: Vec<String> = self.differences.iter().map(ToString::to_string).collect();
        write!(f, "{}: {}", self.template, differences.join("; "))
    }
}

impl TopicMap {
    /// The template of those that are read which a topic probably means. `None` if it fits one, or
    /// resembles none.
    pub fn nearest(&self, topic: &str) -> Option<Nearest<'_>> {
        nearest(topic, &self.templates_read())
    }
}

/// The nearest of these templates: the first of those with the fewest differences.
pub(crate) fn nearest<'a>(topic: &str, templates: &[&'a Template]) -> Option<Nearest<'a>> {
    let levels: Vec<&str> = topic.split('/').collect();
    if levels.len() > MOST_LEVELS {
        return None;
    }
    let compared = templates.iter().map(|template| {
        let (cost, differences) = compare(&levels, template);
        let nearest = Nearest {
            template,
            differences,
        };
        (cost, nearest)
    });
    let (_, nearest) = compared.min_by_key(|(cost, _)| *cost)?;
    let count = nearest.differences.len();
    // What differs as often as it agrees resembles nothing.
    let is_near = count <= MOST_DIFFERENCES && count * 2 < levels.len();
    (count > 0 && is_near).then_some(nearest)
}

/// The cheapest way to turn a topic into a template: its cost, and its steps.
fn compare(topic: &[&str], template: &Template) -> (usize, Vec<Difference>) {
    let texts: Vec<&str> = template.as_str().split('/').collect();
    let template = template.levels();
    // costs[i][j]: of the levels from i on, and the template's from j on.
    let (rows, columns) = (topic.len() + 1, template.len() + 1);
    let mut costs = vec![vec![0; columns]; rows];
    for i in (0..rows).rev() {
        for j in (0..columns).rev() {
            costs[i][j] = match (topic.get(i), template.get(j)) {
                (None, None) => 0,
                (Some(_), None) => GAP + costs[i + 1][j],
                (None, Some(_)) => GAP + costs[i][j + 1],
                (Some(is), Some(should)) => {
                    let same = level_cost(is, should) + costs[i + 1][j + 1];
                    let gap = GAP + costs[i + 1][j].min(costs[i][j + 1]);
                    same.min(gap)
                }
            };
        }
    }
    (costs[0][0], steps(topic, (template, &texts), &costs))
}

/// `template`: its levels, and as they are written.
fn steps(
    topic: &[&str],
    (template, texts): (&[TemplateLevel], &[&str]),
    costs: &[Vec<usize>],
) -> Vec<Difference> {
    let (mut i, mut j, mut found) = (0, 0, vec![]);
    while i < topic.len() || j < template.len() {
        let (cost, level) = (costs[i][j], i + 1);
        match (topic.get(i), template.get(j)) {
            (Some(is), Some(should)) if cost == level_cost(is, should) + costs[i + 1][j + 1] => {
                found.extend(difference(level, is, should, texts[j]));
                (i, j) = (i + 1, j + 1);
            }
            (Some(is), _) if cost == GAP + costs[i + 1][j] => {
                let is = (*is).to_owned();
                found.push(Difference::TooMany { level, is });
                i += 1;
            }
            (_, Some(_)) => {
                let should = texts[j].to_owned();
                found.push(Difference::Missing { level, should });
                j += 1;
            }
            (_, None) => break,
        }
    }
    found
}

fn difference(level: usize, is: &str, should: &TemplateLevel, text: &str) -> Option<Difference> {
    match should {
        TemplateLevel::Literal(_) if text == is => None,
        TemplateLevel::Literal(_) => Some(Difference::Other {
            level,
            is: is.to_owned(),
            should: text.to_owned(),
        }),
        TemplateLevel::Named(_) if is.is_empty() => Some(Difference::Empty {
            level,
            should: text.to_owned(),
        }),
        TemplateLevel::Named(_) => None,
    }
}

/// What a level costs in the place of a template's: less, the more the two resemble each other.
fn level_cost(is: &str, should: &TemplateLevel) -> usize {
    match should {
        TemplateLevel::Literal(text) if &**text == is => 0,
        // A letter or two make a typing mistake; anything else is another word.
        TemplateLevel::Literal(text) => match edits(is, text) {
            few @ 1..=2 => few * 20,
            _ => GAP - 10,
        },
        TemplateLevel::Named(_) if is.is_empty() => EMPTY,
        TemplateLevel::Named(_) => 0,
    }
}

/// How many letters have to be put in, taken out or replaced; at most 3.
fn edits(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    if one.len().abs_diff(other.len()) > 2 {
        return 3;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()].min(3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::layout::Layout;
    use crate::protocol::testing::built_in;

    fn guess(topic: &str) -> Option<String> {
        let map = built_in(Layout::BUILT_IN);
        map.nearest(topic).map(|nearest| nearest.to_string())
    }

    const CHAT21: &str = "apps/{app}/outgoing/users/{sender}/messages/{recipient}/outgoing";

    #[test]
    fn a_typing_mistake_is_named_by_its_level() {
        for (topic, template, difference) in [
            (
                "apps/a/outgoing/users/alice/message/bob/outgoing",
                CHAT21,
                "level 6 is \"message\", should be \"messages\"",
            ),
            (
                "app/a/outgoing/users/alice/messages/bob/outgoing",
                CHAT21,
                "level 1 is \"app\", should be \"apps\"",
            ),
            (
                "/apps/a/outgoing/users/alice/messages/bob/outgoing",
                CHAT21,
                "it begins with a slash, which the layout does not have",
            ),
            (
                "apps/a/outgoing/users/alice/messages/bob",
                CHAT21,
                "level 8 is missing, should be \"outgoing\"",
            ),
            (
                "apps/a/outgoing/users/alice/bob/outgoing",
                CHAT21,
                "level 6 is missing, should be \"messages\"",
            ),
            (
                "apps/a/outgoing/users/alice/messages/bob/outgoing/",
                CHAT21,
                "level 9 is \"\", and one too many",
            ),
            (
                "apps/a/outgoing/users//messages/bob/outgoin",
                CHAT21,
                "level 5 is empty, should be {sender}; \
                 level 8 is \"outgoin\", should be \"outgoing\"",
            ),
            (
                "apps/a/users/alice/presense/phone",
                "apps/{app}/users/{user}/presence/{client_id}",
                "level 5 is \"presense\", should be \"presence\"",
            ),
            (
                "apps/a/users/alice/messages/bob/m1/updated",
                "apps/{app}/users/{user}/messages/{convers_with}/{message_id}/update",
                "level 8 is \"updated\", should be \"update\"",
            ),
        ] {
            assert_eq!(
                guess(topic),
                Some(format!("{template}: {difference}")),
                "{topic}"
            );
        }
    }

    #[test]
    fn what_resembles_nothing_has_no_nearest_template() {
        let long = "a/".repeat(10_000);
        for topic in [
            "",
            "/",
            "sensors/kitchen/temperature",
            "a/b/c/d/e/f/g/h",
            &long,
        ] {
            assert_eq!(guess(topic), None, "{topic}");
        }
    }

    #[test]
    fn what_fits_has_no_difference() {
        assert_eq!(guess("apps/a/users/alice/messages/bob/outgoing"), None);
    }

    #[test]
    fn edits_are_counted_to_three() {
        for (one, other, count) in [
            ("message", "messages", 1),
            ("mesages", "messages", 1),
            ("massage", "messages", 2),
            ("", "ab", 2),
            ("users", "messages", 3),
            ("same", "same", 0),
        ] {
            assert_eq!(
                (edits(one, other), edits(other, one)),
                (count, count),
                "{one} {other}"
            );
        }
    }
}
