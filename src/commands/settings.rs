//! The settings as command-line flags, for every command that reads settings.
//!
//! Owns the step from the table [`SETTINGS`] to clap's arguments, and from the parsed arguments to
//! a [`Config`]. Leaves names, defaults and meaning to `config`.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::{Config, ConfigErrors, Flags, SETTINGS, Setting, Takes, variable};

/// The flag that names the settings file. It is not in the table: a file cannot name itself.
const CONFIG: &str = "config";
/// Its variable.
const CONFIG_VARIABLE: &str = "OBSERVER_CONFIG";

/// The settings that were given on the command line.
///
/// A command takes them with `#[command(flatten)]`, after its own arguments.
pub(super) struct SettingsArgs {
    file: Option<PathBuf>,
    flags: Flags,
}

impl fmt::Debug for SettingsArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The values hold passwords and tokens.
        f.debug_struct("SettingsArgs")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl SettingsArgs {
    /// Adds what the environment and the settings file hold.
    ///
    /// # Errors
    /// Every mistake in the settings, all at once.
    pub(super) fn load(&self) -> Result<Config, ConfigErrors> {
        let file = self.file.clone().or_else(|| {
            environment(CONFIG_VARIABLE)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
        });
        Config::load(&self.flags, &environment, file.as_deref())
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Args for SettingsArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help(format!(
                "settings in TOML, keys named like the flags [env: {CONFIG_VARIABLE}]"
            ));
        command.arg(config).args(SETTINGS.iter().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingsArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |setting: &Setting| match setting.takes {
            Takes::Switch => matches
                .get_flag(setting.name)
                .then(|| vec!["true".to_owned()]),
            Takes::Value(_) | Takes::List(_) => matches
                .get_many::<String>(setting.name)
                .map(|texts| texts.cloned().collect()),
        };
        Ok(Self {
            file: matches.get_one::<PathBuf>(CONFIG).cloned(),
            flags: SETTINGS
                .iter()
                .filter_map(|setting| Some((setting.name, given(setting)?)))
                .collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flag of a setting.
fn argument(setting: &Setting) -> Arg {
    let mut help = setting.help.to_owned();
    if !setting.default.is_empty() && setting.takes != Takes::Switch {
        let _ = write!(help, " [default: {}]", setting.default);
    }
    let _ = write!(help, " [env: {}]", variable(setting.name));
    let argument = Arg::new(setting.name).long(setting.name).help(help);
    match setting.takes {
        Takes::Value(name) => argument.value_name(name).action(ArgAction::Set),
        Takes::List(name) => argument.value_name(name).action(ArgAction::Append),
        Takes::Switch => argument.action(ArgAction::SetTrue),
    }
}
