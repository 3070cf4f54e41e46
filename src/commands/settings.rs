//! The settings as command-line flags, for every command that reads settings.
//!
//! Owns the step from the table of settings to clap's arguments, and from the parsed arguments to a
//! [`Config`]. Which settings a command uses is in `scope`; names, defaults and meaning are the
//! business of `config`.

use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::output::Output;
use super::scope::{Everything, Scope, Service, flags, uses};
use super::service;
use crate::config::{
    Config, ConfigErrors, Flags, Origin, Setting, Takes, unknown_variables, variable,
};

/// The flag that names the settings file. It is not in the table: a file cannot name itself.
const CONFIG: &str = "config";
/// Its variable.
const CONFIG_VARIABLE: &str = "OBSERVER_CONFIG";
/// The flag that raises the log level.
const VERBOSE: &str = "verbose";

/// The settings that were given on the command line.
///
/// A command takes them with `#[command(flatten)]`, after its own arguments. `S` says which it
/// uses: all, if nothing else is said.
pub(super) struct SettingsArgs<S: Scope = Everything> {
    file: Option<PathBuf>,
    flags: Flags,
    scope: PhantomData<S>,
}

impl<S: Scope> fmt::Debug for SettingsArgs<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The values hold passwords and tokens.
        f.debug_struct("SettingsArgs")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl<S: Scope> SettingsArgs<S> {
    /// Adds what the environment and the settings file hold. If nobody says which observer is
    /// meant, some commands look for the service of this machine, and say so.
    ///
    /// # Errors
    /// Every mistake in the settings, all at once; there is no store where the command needs one.
    pub(super) fn load(&self) -> anyhow::Result<Config> {
        let file = self.file();
        let mut config = self.load_from(file.as_deref())?;
        if S::WARNS_OF_VARIABLES {
            let unknown = unknown_variables(variable_names());
            config
                .warnings
                .extend(unknown.iter().map(ToString::to_string));
        }
        match S::SERVICE {
            Service::Store(missing) if file.is_none() => {
                let load = |path: &Path| self.load_from(Some(path));
                service::find_store(config, missing, load, Output)
            }
            Service::SettingsUnless(names) if file.is_none() && !is_given(&config, names) => {
                match service::settings_file() {
                    Some(path) => {
                        service::tell(path, Output);
                        Ok(self.load_from(Some(path))?)
                    }
                    None => Ok(config),
                }
            }
            Service::Ignored | Service::Store(_) | Service::SettingsUnless(_) => Ok(config),
        }
    }

    /// Adds what the environment and the settings file hold, and looks nowhere else.
    ///
    /// # Errors
    /// Every mistake in the settings, all at once.
    pub(super) fn load_given(&self) -> Result<Config, ConfigErrors> {
        self.load_from(self.file().as_deref())
    }

    /// The settings file: of the flag, or of the variable.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let variable = || environment(CONFIG_VARIABLE).filter(|path| !path.is_empty());
        self.file.clone().or_else(|| variable().map(PathBuf::from))
    }

    fn load_from(&self, file: Option<&Path>) -> Result<Config, ConfigErrors> {
        Config::load_only(&uses::<S>, &self.flags, &environment, file)
    }
}

/// Whether one of these settings is given, under whichever name.
fn is_given(config: &Config, names: &[&str]) -> bool {
    let mut rows = config.in_force.iter();
    rows.any(|row| names.contains(&row.name) && row.origin != Origin::Default)
}

/// The names of all environment variables.
pub(super) fn variable_names() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl<S: Scope> Args for SettingsArgs<S> {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new(CONFIG)
            .short('c')
            .long(CONFIG)
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("File with settings")
            .long_help(format!(
                "File with settings in TOML; its keys are named like the flags.\n\
                 [env: {CONFIG_VARIABLE}]"
            ));
        let settings = flags::<S>()
            .map(|(heading, setting)| argument(setting, S::COMMON).help_heading(heading));
        let command = command.arg(config);
        let command = if S::VERBOSE_LOG && uses::<S>("log-level") {
            let verbose = Arg::new(VERBOSE)
                .short('v')
                .long(VERBOSE)
                .action(ArgAction::Count)
                .conflicts_with("log-level")
                .help("Log more: -v for debug, -vv for trace");
            command.arg(verbose)
        } else {
            command
        };
        command.args(settings)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<S: Scope> FromArgMatches for SettingsArgs<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |setting: &Setting| match setting.takes {
            Takes::Switch => matches
                .get_flag(setting.name)
                .then(|| vec!["true".to_owned()]),
            Takes::Value(_) | Takes::List(_) => matches
                .get_many::<String>(setting.name)
                .map(|texts| texts.cloned().collect()),
        };
        let mut flags: Flags = flags::<S>()
            .filter_map(|(_, setting)| Some((setting.name, given(setting)?)))
            .collect();
        let verbose = match S::VERBOSE_LOG {
            true => matches.try_get_one::<u8>(VERBOSE).ok().flatten(),
            false => None,
        };
        match verbose.copied().unwrap_or_default() {
            0 => {}
            1 => drop(flags.insert("log-level", vec!["debug".to_owned()])),
            _ => drop(flags.insert("log-level", vec!["trace".to_owned()])),
        }
        Ok(Self {
            file: matches.get_one::<PathBuf>(CONFIG).cloned(),
            flags,
            scope: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flag of a setting. `-h` shows it if it is one of the `common`.
fn argument(setting: &Setting, common: &[&str]) -> Arg {
    let default = match (setting.default, setting.takes) {
        ("", _) | (_, Takes::Switch) => String::new(),
        // With spaces, so that a long list can be wrapped.
        (default, Takes::List(_)) => format!("[default: {}] ", default.replace(',', ", ")),
        (default, Takes::Value(_)) => format!("[default: {default}] "),
    };
    let help = format!(
        "{}\n{default}[env: {}]",
        setting.help,
        variable(setting.name)
    );
    let brief = match setting.brief {
        "" => setting.help.trim_end_matches('.'),
        brief => brief,
    };
    let mut argument = Arg::new(setting.name)
        .long(setting.name)
        .help(brief)
        .long_help(help)
        .hide_short_help(!common.contains(&setting.name));
    if let Some(short) = setting.short {
        argument = argument.short(short);
    }
    match setting.takes {
        Takes::Value(name) => argument.value_name(name).action(ArgAction::Set),
        Takes::List(name) => argument.value_name(name).action(ArgAction::Append),
        Takes::Switch => argument.action(ArgAction::SetTrue),
    }
}
