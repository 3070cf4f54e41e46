//! The name that is probably meant where one is not known.

/// How alike two names have to be: of 1, which is the same.
const ALIKE: f64 = 0.6;

/// The name most like `word`, if one is like it at all. `_` counts as `-`, and case does not count.
pub(crate) fn nearest(
    word: &str,
    known: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    let word = word.to_lowercase().replace('_', "-");
    let likeness = |name: &'static str| {
        // A part of a name, or a name with more: `payload`, `broker-url`.
        let has_in_common =
            (word.len() > 3 && name.contains(&word)) || (name.len() > 3 && word.starts_with(name));
        let likeness = strsim::normalized_damerau_levenshtein(&word, name);
        (likeness + if has_in_common { 0.4 } else { 0.0 }, name)
    };
    let best = known
        .map(likeness)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    best.filter(|(likeness, _)| *likeness >= ALIKE)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::names;

    #[test]
    fn a_slip_is_put_right_and_a_stranger_is_not() {
        for (word, want) in [
            ("windw", Some("window")),
            ("max_payload", Some("max-payload")),
            ("brokre", Some("broker")),
            ("broker-url", Some("broker")),
            ("user", Some("username")),
            ("PASSWORD", Some("password")),
            ("passwd-file", Some("password-file")),
            ("store-path", Some("store")),
            ("payload", Some("max-payload")),
            ("run", None),
            ("flavour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, names()), want, "{word}");
        }
    }
}
