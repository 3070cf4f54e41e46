//! A configuration file to begin with: every setting commented out, with its explanation and its
//! default.

use std::fmt::Write as _;

use super::settings::{GROUPS, Setting, Takes};

/// The width of the file, in columns.
const WIDTH: usize = 80;

const HEAD: &str = "\
# Settings of chat21-observer. Lines that begin with # have no effect.
#
# Each setting is a key of this file (max-payload), a flag (--max-payload) and a
# variable (OBSERVER_MAX_PAYLOAD). Flags override variables, and variables
# override this file. Keep passwords in files of their own, or in variables.
#
#   chat21-observer config check -c FILE          finds mistakes
#   chat21-observer config show --origin -c FILE  shows what is in force
";

const MORE: &str = "
# Further settings: chat21-observer config init --all
";

/// Which settings a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Those that most set-ups need.
    Common,
    /// All.
    All,
}

/// The text of a file to begin with.
pub fn template(pick: Pick) -> String {
    let mut text = String::from(HEAD);
    for group in GROUPS {
        let is_wanted = |setting: &&Setting| pick == Pick::All || !setting.brief.is_empty();
        let mut wanted = group.settings.iter().filter(is_wanted).peekable();
        if wanted.peek().is_some() {
            let _ = writeln!(text, "\n\n# ===== {} =====", group.heading);
        }
        for setting in wanted {
            text.push('\n');
            for line in wrapped(setting.help, WIDTH - 2) {
                let _ = writeln!(text, "# {line}");
            }
            let _ = writeln!(text, "# {} = {}", setting.name, toml_value(setting));
        }
    }
    if pick == Pick::Common {
        text.push_str(MORE);
    }
    text
}

/// The default as TOML has it.
fn toml_value(setting: &Setting) -> String {
    let default = setting.default;
    let is_bare = matches!(default, "true" | "false") || default.parse::<u32>().is_ok();
    match setting.takes {
        Takes::List(_) => {
            let items = default.split(',').filter(|item| !item.is_empty());
            let items: Vec<String> = items.map(|item| format!("{item:?}")).collect();
            format!("[{}]", items.join(", "))
        }
        Takes::Value(_) | Takes::Switch if is_bare => default.to_owned(),
        Takes::Value(_) | Takes::Switch => format!("{default:?}"),
    }
}

/// The words of a text in lines of at most `width` columns.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else if let Some(last) = lines.last_mut() {
            if line > 0 {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::settings;
    use crate::config::testing::load;

    /// The file with every setting in force: only lines of explanation stay comments.
    fn uncommented(text: &str) -> String {
        let setting = |line: &str| {
            let (name, _) = line.strip_prefix("# ")?.split_once(" = ")?;
            settings()
                .any(|setting| setting.name == name)
                .then(|| line[2..].to_owned())
        };
        let lines = text.lines();
        let lines = lines.map(|line| setting(line).unwrap_or_else(|| line.to_owned()));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_template_is_valid_as_it_is_and_with_every_setting_in_force() {
        for pick in [Pick::Common, Pick::All] {
            let text = template(pick);
            assert!(
                text.lines()
                    .all(|line| line.is_empty() || line.starts_with('#'))
            );
            let long: Vec<&str> = text
                .lines()
                .filter(|line| line.chars().count() > WIDTH && !line.contains(" = ["))
                .collect();
            assert!(long.is_empty(), "{long:#?}");
            let file = uncommented(&text);
            let config = load(&[], &[], Some(&file)).unwrap_or_else(|errors| panic!("{errors:?}"));
            let default = load(&[], &[], None).unwrap();
            let values = |config: &crate::config::Config| {
                let rows = config.in_force.iter();
                rows.map(|row| row.value.clone()).collect::<Vec<_>>()
            };
            assert_eq!(values(&config), values(&default));
        }
        let all = uncommented(&template(Pick::All));
        let count = all
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        assert_eq!(count.count(), settings().count());
    }
}
