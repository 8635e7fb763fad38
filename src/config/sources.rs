//! Where settings come from, one after the other, and what must hold between them in the end.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::settings::{CLASS, CLASSES_MAX, LIMITS, Setting, TOP};
use super::value::Value;
use super::{Config, ConfigError, Origin, Problem, Shards};
use crate::topic::{Pattern, TopicClass};

/// What the variables of settings begin with.
const PREFIX: &str = "TIDEGATE_";

/// A setting given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The flag, for messages: `--listen`.
    pub flag: &'static str,
    /// The setting's key: `listen`, `limits.message_bytes`.
    pub key: &'static str,
    /// What was given.
    pub value: String,
}

impl Config {
    /// Reads the settings from `file`, then from those `variables` that begin with `TIDEGATE_`, then from `flags`.
    ///
    /// # Errors
    /// What cannot be read, what is unknown, wrong or out of range, and settings that do not go together; the first such.
    pub fn load(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
        flags: &[Flag],
    ) -> Result<Self, ConfigError> {
        let text = file
            .map(|path| fs::read_to_string(path).map(|text| (path, text)).map_err(|error| unreadable(path, &error)));
        let text = text.transpose()?;
        Self::from_sources(text.as_ref().map(|(path, text)| (*path, text.as_str())), variables, flags)
    }

    /// As [`Config::load`], with the file's text at hand.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_sources(
        file: Option<(&Path, &str)>,
        variables: impl IntoIterator<Item = (String, String)>,
        flags: &[Flag],
    ) -> Result<Self, ConfigError> {
        let mut layers = Layers { config: Self { classes: Vec::new(), ..Self::default() }, origins: HashMap::new() };
        if let Some((path, text)) = file {
            layers.read_file(path, text)?;
        }
        layers.read_variables(variables)?;
        for Flag { flag, key, value } in flags {
            layers.set(key, &Value::Written(value), Origin::Flag(flag))?;
        }
        if !layers.config.classes.last().is_some_and(|class| class.pattern == Pattern::everything()) {
            layers.config.classes.push(TopicClass::catch_all());
        }
        layers.check()?;
        Ok(layers.config)
    }
}

/// The configuration as far as it has been read, and whence each setting came.
struct Layers {
    config: Config,
    origins: HashMap<String, Origin>,
}

impl Layers {
    fn read_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let line = |span: Range<usize>| Origin::File(path.to_owned(), line_of(text, span.start));
        let document = DeTable::parse(text).map_err(|error| ConfigError {
            origin: line(error.span().unwrap_or(0..0)),
            key: String::new(),
            problem: Problem::Syntax(error.message().to_owned()),
        })?;
        for (key, value) in document.get_ref() {
            let origin = line(key.span());
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("limits", DeValue::Table(table)) => {
                    for (key, value) in table {
                        let name = format!("limits.{}", key.get_ref());
                        self.set(&name, &Value::Toml(value.get_ref()), line(key.span()))?;
                    }
                }
                ("class", DeValue::Array(tables)) => {
                    for table in tables {
                        let DeValue::Table(settings) = table.get_ref() else {
                            return Err(wrong_table("class", "[[class]] tables", value.get_ref(), origin));
                        };
                        let class = read_class(settings, line(table.span()), &line)?;
                        self.add_class(class, line(table.span()))?;
                    }
                }
                ("limits", other) => return Err(wrong_table("limits", "a [limits] table", other, origin)),
                ("class", other) => return Err(wrong_table("class", "[[class]] tables", other, origin)),
                (name, value) => self.set(name, &Value::Toml(value), origin)?,
            }
        }
        Ok(())
    }

    fn read_variables(&mut self, variables: impl IntoIterator<Item = (String, String)>) -> Result<(), ConfigError> {
        // In a fixed order, so that the same mistakes give the same message.
        let mut variables: Vec<_> = variables.into_iter().filter(|(name, _)| is_setting(name)).collect();
        variables.sort_unstable();
        for (name, value) in variables {
            let key = name[PREFIX.len()..].to_ascii_lowercase();
            let key = key.strip_prefix("limits_").map_or(key.clone(), |limit| format!("limits.{limit}"));
            self.set(&key, &Value::Written(&value), Origin::Variable(name))?;
        }
        Ok(())
    }

    /// Sets what `key` names, whose value stands at `origin`.
    fn set(&mut self, key: &str, value: &Value<'_>, origin: Origin) -> Result<(), ConfigError> {
        let result = match key.strip_prefix("limits.") {
            Some(limit) => write(LIMITS, limit, &mut self.config.limits, value),
            None => write(TOP, key, &mut self.config, value),
        };
        // Keys are suggested as they are written where the mistake stands.
        result
            .map_err(|problem| match problem {
                Problem::Unknown { .. } => Problem::Unknown { nearest: nearest(key, &origin) },
                other => other,
            })
            .map_err(|problem| ConfigError { origin: origin.clone(), key: key.to_owned(), problem })?;
        self.origins.insert(key.to_owned(), origin);
        Ok(())
    }

    fn add_class(&mut self, class: TopicClass, origin: Origin) -> Result<(), ConfigError> {
        let classes = &mut self.config.classes;
        let conflict = if classes.len() + 1 >= CLASSES_MAX {
            Some(format!("there are more than {} classes", CLASSES_MAX - 1))
        } else if classes.iter().any(|other| other.name == class.name) {
            Some(format!("there is another class named \"{}\"", class.name))
        } else if let Some(all) = classes.iter().find(|other| other.pattern == Pattern::everything()) {
            Some(format!(
                "no topic can be of class \"{}\", since \"{}\" before it matches all: put it last",
                class.name, all.name
            ))
        } else if class.name == TopicClass::catch_all().name && class.pattern != Pattern::everything() {
            Some(format!("the name \"{}\" is kept for the class of all other topics (pattern \"**\")", class.name))
        } else {
            None
        };
        if let Some(conflict) = conflict {
            return Err(ConfigError { origin, key: "class".to_owned(), problem: Problem::Conflict(conflict) });
        }
        classes.push(class);
        Ok(())
    }

    /// What must hold between settings.
    fn check(&self) -> Result<(), ConfigError> {
        let Config { listen, admin, shards, cpus, insecure, limits, .. } = &self.config;
        for (key, address) in [("listen", listen), ("admin", admin)] {
            if !address.ip().to_canonical().is_loopback() && !insecure {
                return Err(self.conflict(
                    &[key],
                    format!("{address} can be reached from other machines, and nobody has to prove who they are: use a loopback address, or say --insecure (`insecure = true`) if the network is closed"),
                ));
            }
        }
        if listen == admin && listen.port() != 0 {
            return Err(self.conflict(
                &["admin", "listen"],
                format!("`listen` and `admin` are both {listen}: give each its own port"),
            ));
        }
        if let (Shards::Count(count), Some(cpus)) = (shards, cpus)
            && usize::from(*count) > cpus.as_slice().len()
        {
            let text = format!(
                "{count} shards cannot each have one of the CPUs {cpus}: `shards` is at most the number of `cpus`"
            );
            return Err(self.conflict(&["shards", "cpus"], text));
        }
        for (small_key, small, large_key, large) in [
            ("limits.value_bytes", limits.value_bytes, "limits.message_bytes", limits.message_bytes),
            ("limits.key_bytes", limits.key_bytes, "limits.message_bytes", limits.message_bytes),
        ] {
            if small >= large {
                let text =
                    format!("`{small_key}` ({small}) must be less than `{large_key}` ({large}), which has to hold it");
                return Err(self.conflict(&[small_key, large_key], text));
            }
        }
        if limits.stall_timeout < limits.heartbeat_answer {
            let (stall, answer) = (limits.stall_timeout.as_millis(), limits.heartbeat_answer.as_millis());
            let text = format!(
                "`limits.stall_timeout_ms` ({stall}) must not be less than `limits.heartbeat_answer_ms` ({answer})"
            );
            return Err(self.conflict(&["limits.stall_timeout_ms", "limits.heartbeat_answer_ms"], text));
        }
        Ok(())
    }

    /// A conflict, reported at the first of `keys` that was given at all.
    fn conflict(&self, keys: &[&str], text: String) -> ConfigError {
        let given = keys.iter().find_map(|key| self.origins.get(*key).map(|origin| (*key, origin.clone())));
        let (key, origin) = given.unwrap_or((keys[0], Origin::Default));
        ConfigError { origin, key: key.to_owned(), problem: Problem::Conflict(text) }
    }
}

/// Reads one `[[class]]`; what it does not say is as in the catch-all.
fn read_class(
    settings: &DeTable<'_>,
    origin: Origin,
    line: &impl Fn(Range<usize>) -> Origin,
) -> Result<TopicClass, ConfigError> {
    let mut class = TopicClass::catch_all();
    for (key, value) in settings {
        let name = key.get_ref().as_ref();
        write(CLASS, name, &mut class, &Value::Toml(value.get_ref())).map_err(|problem| ConfigError {
            origin: line(key.span()),
            key: format!("class.{name}"),
            problem: match problem {
                Problem::Unknown { .. } => {
                    Problem::Unknown { nearest: most_alike(name, CLASS.iter().map(|setting| setting.key.to_owned())) }
                }
                other => other,
            },
        })?;
    }
    for needed in ["name", "pattern"] {
        if !settings.contains_key(needed) {
            return Err(ConfigError { origin, key: "class".to_owned(), problem: Problem::Missing(needed) });
        }
    }
    Ok(class)
}

/// Sets `key` by its row of `table`.
fn write<T>(table: &[Setting<T>], key: &str, owner: &mut T, value: &Value<'_>) -> Result<(), Problem> {
    let setting = table.iter().find(|setting| setting.key == key).ok_or(Problem::Unknown { nearest: None })?;
    (setting.write)(owner, value)
}

/// The known key nearest to `key`, spelled as at `origin`.
fn nearest(key: &str, origin: &Origin) -> Option<String> {
    let top = TOP.iter().map(|setting| setting.key.to_owned());
    let limits = LIMITS.iter().map(|setting| format!("limits.{}", setting.key));
    let is_variable = matches!(origin, Origin::Variable(_));
    // A variable cannot set a table.
    let tables: &[&str] = if is_variable { &[] } else { &["limits", "class"] };
    let nearest = match key.strip_prefix("limits.") {
        // What all limits begin with makes none of them likely.
        Some(limit) => most_alike(limit, LIMITS.iter().map(|setting| setting.key.to_owned()))
            .map(|limit| format!("limits.{limit}"))
            .or_else(|| most_alike(limit, top)),
        None if is_variable && matches!(key, "limits" | "class") => None,
        None => most_alike(key, top.chain(limits).chain(tables.iter().map(|table| (*table).to_owned()))),
    }?;
    Some(match origin {
        Origin::Variable(_) => format!("{PREFIX}{}", nearest.replace('.', "_").to_ascii_uppercase()),
        _ => nearest,
    })
}

/// The most alike of `known`, or one that `key` is a part of (a forgotten table or unit), if any is much alike.
fn most_alike(key: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let likeness = |known: &str| {
        let is_part = key.len() >= 4 && known.contains(key);
        if is_part { 1.0 } else { strsim::jaro_winkler(key, known) }
    };
    let (likeness, nearest) = known.map(|known| (likeness(&known), known)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (likeness > 0.8).then_some(nearest)
}

/// Whether the variable `name` is meant as a setting. Others of our own are read elsewhere, and Kubernetes describes
/// a service named `tidegate` in variables of the same beginning (`TIDEGATE_PORT`, `TIDEGATE_SERVICE_HOST`).
fn is_setting(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let is_ours = matches!(rest, "CONFIG" | "LOG" | "URL" | "TOKEN" | "DATA");
    let is_kubernetes = rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_");
    !is_ours && !is_kubernetes
}

fn wrong_table(key: &str, expected: &'static str, found: &DeValue<'_>, origin: Origin) -> ConfigError {
    let problem = Problem::Type { expected, found: format!("a value of type {}", found.type_str()) };
    ConfigError { origin, key: key.to_owned(), problem }
}

fn unreadable(path: &Path, error: &std::io::Error) -> ConfigError {
    ConfigError {
        origin: Origin::File(path.to_owned(), 0),
        key: String::new(),
        problem: Problem::Unreadable(error.to_string()),
    }
}

/// The line, from 1, that the byte `position` is on.
fn line_of(text: &str, position: usize) -> usize {
    1 + text.as_bytes()[..position.min(text.len())].iter().filter(|&&byte| byte == b'\n').count()
}
