//! Generates the reference of the settings from the doc comments of their fields: a page, and the
//! defaults as commented TOML.

use std::fmt::Write as _;

use sensor_user::daemon::{config::Config, reload::is_reloaded};
use serde_json::Value;

const PAGE_INTRO: &str = "\
# Configuration

<!-- Generated: UPDATE_README=1 cargo test -p sensor-tests --test configuration -->

memsensor needs no configuration. To change a setting, write it to a TOML file and pass the file to the daemon:
`memsensor run --config /etc/memsensor/config.toml`. After a change run `memsensor reload`, or send SIGHUP: it
replaces the settings below that say so, and names changed ones that need a restart. A mistake in the file changes
nothing. The verdict and a drain survive a restart. `--listen`, `--agent-listen`, `--user` and `--allow-degraded`
override the file. memsensor's user must be able to read the file for a reload.

| Command | What it does |
|---|---|
| `memsensor config defaults` | prints every setting with its meaning and default, as TOML |
| `memsensor config check FILE` | reports the first unknown key, wrong type or value out of range, with its key or line; reads the certificates, keys, tokens and web configurations that listeners need |
| `memsensor reload` | makes the running daemon read its file again |
| `memsensor config rules` | prints the rules of the verdict with their thresholds, as TOML |

Every setting is optional. Keep only what you change, so that you get new defaults with an update. A list replaces the
default list. A duration is a string such as `\"500ms\"`, `\"10s\"` or `\"5m\"`, an address one such as
`\"127.0.0.1:9817\"` or `\"[::]:9817\"`.
";

const TOP_LEVEL: &str = "These keys are before the first table in the file.";

const DEFAULTS_INTRO: &str = "\
# All settings of memsensor with their defaults. Keep only what you change; `memsensor config check
# FILE` reports mistakes. A duration is a string such as \"500ms\", \"10s\" or \"5m\". Lines that begin
# with # and no space are examples.
";

/// A table of the configuration: `[http]`, or the keys before the first table.
#[derive(Default)]
pub(super) struct Table {
    /// As in the file, in brackets; empty for the keys before the first table.
    pub(super) header: String,
    pub(super) meaning: String,
    pub(super) settings: Vec<Setting>,
    /// Only of tables without defaults, whose settings are examples.
    example: String,
}

#[derive(Default)]
pub(super) struct Setting {
    /// With the name of its table.
    pub(super) path: String,
    key: String,
    kind: String,
    /// As in TOML.
    value: String,
    is_example: bool,
    is_required: bool,
    pub(super) meaning: String,
    /// Allowed words, with their meanings.
    words: Vec<(String, String)>,
}

impl Setting {
    /// The doc comment without its range, and the range.
    pub(super) fn split_range(&self) -> (String, Option<&str>) {
        let Some((before, rest)) = self.meaning.split_once("Range: ") else {
            return (self.meaning.clone(), None);
        };
        let (range, after) = rest.split_once(". ").unwrap_or((rest.trim_end_matches('.'), ""));
        (format!("{before}{after}").trim_end().to_owned(), Some(range))
    }
}

/// The schema of the configuration.
pub(super) struct Schema(pub(super) Value);

impl Schema {
    pub(super) fn of_config() -> Self {
        Self(schemars::schema_for!(Config).to_value())
    }

    /// The definition that a schema refers to, or the schema itself.
    pub(super) fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let target = schema["$ref"].as_str().and_then(|r| self.0.pointer(r.strip_prefix('#')?));
        target.unwrap_or(schema)
    }

    /// The table with this name; `""` has the keys before the first table.
    fn table(&self, name: &str) -> &Value {
        if name.is_empty() { &self.0 } else { self.resolve(&self.0["properties"][name]) }
    }

    /// Every setting in the order of `defaults`: the default configuration as TOML.
    pub(super) fn tables(&self, defaults: &str) -> Result<Vec<Table>, String> {
        let mut tables = vec![Table::default()];
        let mut lists = Vec::new();
        let mut name = "";
        for line in defaults.lines().filter(|line| !line.is_empty()) {
            if let Some(header) = line.strip_prefix('[') {
                name = header.trim_end_matches(']');
                tables.push(self.begin_table(name)?);
                continue;
            }
            let (key, value) = line.split_once(" = ").ok_or(line)?;
            if self.is_list_of_tables(&self.table(name)["properties"][key]) {
                lists.push(self.list_of_tables(key)?);
            } else {
                let table = tables.last_mut().ok_or(line)?;
                table.settings.push(self.setting(name, self.table(name), key, Some(value))?);
            }
        }
        tables.extend(lists);
        Ok(tables)
    }

    fn is_list_of_tables(&self, schema: &Value) -> bool {
        self.resolve(&schema["items"])["properties"].is_object()
    }

    fn begin_table(&self, name: &str) -> Result<Table, String> {
        let schema = &self.0["properties"][name];
        let mut table = Table { meaning: meaning(schema, name)?, ..Table::default() };
        if self.table(name)["properties"].is_object() {
            table.header = format!("[{name}]");
        } else {
            table.header = format!("[{name}.NAME]");
            let tables = schema["examples"][0].as_object().ok_or(name)?;
            let tables = tables.iter().map(|(k, v)| format!("[{name}.{k}]\n{}", toml_text(v)));
            table.example = tables.collect::<Vec<_>>().join("\n");
        }
        Ok(table)
    }

    fn list_of_tables(&self, name: &str) -> Result<Table, String> {
        let list = &self.0["properties"][name];
        let entry = self.resolve(&list["items"]);
        let required = entry["required"].as_array().ok_or(name)?;
        let required: Vec<_> = required.iter().filter_map(Value::as_str).collect();
        let keys = entry["properties"].as_object().ok_or(name)?.keys().map(String::as_str);
        let mut settings = Vec::new();
        for key in &required {
            settings.push(self.setting(name, entry, key, None)?);
        }
        for key in keys.filter(|key| !required.contains(key)) {
            let default = &entry["properties"][key]["default"];
            let default = (!default.is_null()).then(|| default.to_string());
            let setting = self.setting(name, entry, key, default.as_deref())?;
            settings.push(Setting { is_required: false, ..setting });
        }
        let header = format!("[[{name}]]");
        Ok(Table { header, meaning: meaning(list, name)?, settings, example: String::new() })
    }

    /// A setting with its default, or without one with its example.
    fn setting(
        &self,
        table: &str,
        schema: &Value,
        key: &str,
        default: Option<&str>,
    ) -> Result<Setting, String> {
        let path = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
        let schema = &schema["properties"][key];
        let words = self.words(schema, &path)?;
        let example = || schema["examples"][0].to_string();
        Ok(Setting {
            meaning: meaning(schema, &path)?,
            kind: if words.is_empty() { kind(schema, &path)? } else { "one of these words".into() },
            value: default.map_or_else(example, str::to_owned),
            is_example: default.is_none(),
            is_required: default.is_none(),
            key: key.to_owned(),
            path,
            words,
        })
    }

    /// The words of an enumeration.
    fn words(&self, schema: &Value, path: &str) -> Result<Vec<(String, String)>, String> {
        let Some(variants) = self.resolve(schema)["oneOf"].as_array() else {
            return Ok(Vec::new());
        };
        let word = |variant: &Value| {
            let word = variant["const"].as_str().ok_or(path)?;
            Ok((word.to_owned(), meaning(variant, &format!("{path} = {word}"))?))
        };
        variants.iter().map(word).collect()
    }
}

/// The doc comment on one line.
fn meaning(schema: &Value, path: &str) -> Result<String, String> {
    let text = schema["description"].as_str().ok_or(format!("{path} has no doc comment"))?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn kind(schema: &Value, path: &str) -> Result<String, String> {
    let kind = schema["type"].as_str().ok_or(format!("{path} has no type"))?;
    Ok(match (kind, schema["format"].as_str()) {
        ("string", Some(format)) => format.to_owned(),
        ("array", _) => match kind_of_items(schema, path)?.as_str() {
            "address" => "list of addresses".to_owned(),
            item => format!("list of {item}s"),
        },
        (kind, _) => kind.to_owned(),
    })
}

fn kind_of_items(schema: &Value, path: &str) -> Result<String, String> {
    kind(&schema["items"], path)
}

/// `key = value` lines.
fn toml_text(object: &Value) -> String {
    let object = object.as_object().expect("an object");
    let lines: Vec<_> = object.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    lines.concat()
}

/// Breaks a text into lines of at most `width` characters, all but the first after `indent`.
fn wrap(text: &str, width: usize, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("a line");
        if line.chars().count() + 1 + word.chars().count() > width {
            lines.push(format!("{indent}{word}"));
        } else {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
    }
    lines.join("\n")
}

/// The page for the documentation.
pub(super) fn page(tables: &[Table]) -> String {
    let mut page = PAGE_INTRO.to_owned();
    for table in tables {
        let (title, meaning) = match table.header.as_str() {
            "" => ("Top level".to_owned(), TOP_LEVEL),
            header => (format!("`{header}`"), table.meaning.as_str()),
        };
        write!(page, "\n## {title}\n\n{}\n", wrap(meaning, 118, "")).expect("a String");
        if !table.example.is_empty() {
            write!(page, "\n```toml\n{}```\n", table.example).expect("a String");
        }
        for setting in &table.settings {
            page.push_str(&section(setting));
        }
    }
    page
}

/// A setting on the page.
fn section(setting: &Setting) -> String {
    let (meaning, range) = setting.split_range();
    let mut facts = format!("Type: {}.", setting.kind);
    let label = match (setting.is_example, setting.is_required) {
        (true, true) => "Required; example",
        (true, false) => "Optional; example",
        (false, _) => "Default",
    };
    write!(facts, " {label}: `{}`.", setting.value).expect("a String");
    if let Some(range) = range {
        write!(facts, " Range: {range}.").expect("a String");
    }
    let applied = if is_reloaded(&setting.path) { "a reload" } else { "a restart" };
    write!(facts, " A change takes effect at {applied}.").expect("a String");
    let mut text = format!("\n### `{}`\n\n{facts}\n\n{}\n", setting.path, wrap(&meaning, 118, ""));
    if !setting.words.is_empty() {
        text.push('\n');
    }
    for (word, meaning) in &setting.words {
        text.push_str(&wrap(&format!("- `{word}`: {meaning}"), 118, "  "));
        text.push('\n');
    }
    text
}

/// The defaults as TOML, each with its doc comment. Examples are commented out.
pub(super) fn commented_defaults(tables: &[Table]) -> String {
    let mut toml = DEFAULTS_INTRO.to_owned();
    for table in tables {
        if !table.header.is_empty() {
            write!(toml, "\n{}\n", comment(&table.meaning)).expect("a String");
        }
        if !table.example.is_empty() {
            for line in table.example.lines() {
                writeln!(toml, "{}{line}", if line.is_empty() { "" } else { "#" })
                    .expect("a String");
            }
            continue;
        }
        let mark = if table.settings.iter().any(|setting| setting.is_example) { "#" } else { "" };
        if !table.header.is_empty() {
            writeln!(toml, "{mark}{}", table.header).expect("a String");
        }
        for setting in &table.settings {
            write!(toml, "\n{}\n", comment(&setting.meaning)).expect("a String");
            for (word, meaning) in &setting.words {
                writeln!(toml, "{}", comment(&format!("- {word:?}: {meaning}"))).expect("a String");
            }
            writeln!(toml, "{mark}{} = {}", setting.key, setting.value).expect("a String");
        }
    }
    toml
}

fn comment(text: &str) -> String {
    wrap(&format!("# {text}"), 100, "# ")
}
