//! The configuration that is in force, each value with who said it.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::origin::{Origin, Position};
use super::overrides::{Override, get};
use super::problem::Path;
use super::scalar::{self, Kind};
use super::schema;
use super::section::default_node;
use super::shape::Shape;
use super::tree::{Entries, Entry, Node, Scalar, Value};
use super::write::Writer;

/// The configuration in force, with all defaults, each value with its [`Origin`].
///
/// Displayed as a configuration file with the origins as comments; read again it is the same configuration, unless
/// something is redacted, or the environment or the program said a relative path. Serialised it is the list of its
/// [`settings`](Self::settings).
///
/// The value of a match of a header or a query parameter whose name holds `authorization`, `cookie`, `api-key`, `token`,
/// `secret` or `password` is shown as `<redacted>`.
///
/// What has no value unless somebody says one is left out: the bound of a request, for example.
///
/// # Examples
/// ```
/// use mesh_core::config::Reader;
///
/// let reader = Reader::new().with_environment([("MESH_TIMEOUT".into(), "2s".into())]);
/// let text = reader.read(None)?.effective.to_string();
/// assert!(text.contains("  timeout: 2s  # environment MESH_TIMEOUT\n"));
/// assert!(text.contains("  connect_timeout: 5s  # default\n"));
/// # Ok::<(), mesh_core::config::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Effective {
    /// What was said. What follows from it is made when it is asked for.
    root: Node,
    file: Arc<str>,
}

/// A single value that is in force.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Setting {
    /// The way to it: `services.greeter.routes[0].timeout`.
    pub path: String,
    /// The value as YAML has it: a scalar, `[]` or `{}`.
    pub value: String,
    /// Who said it.
    pub origin: Origin,
    plain: Option<Scalar>,
}

impl Effective {
    /// What `root` says.
    pub(super) fn new(root: Node, file: &str) -> Self {
        Self { root, file: file.into() }
    }

    /// Every value in force, in the order of the sections of the reference and of the file.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        walk(&self.complete(), Path::TOP, &mut |node, path| {
            let plain = if let Value::Scalar(scalar) = &node.value { Some(scalar.clone()) } else { None };
            let origin = node.at.origin(&self.file);
            settings.push(Setting { path: path.to_string(), value: leaf(node), origin, plain });
        });
        settings
    }

    fn complete(&self) -> Node {
        let mut root = self.root.clone();
        if let Value::Map(map) = &mut root.value
            && let Some(services) = Arc::make_mut(map).list.iter_mut().find(|entry| &*entry.key == "services")
        {
            services.value = with_implied_routes(&services.value);
        }
        with_implied_tls(&mut root);
        let defaults = get(&root, "defaults").cloned().unwrap_or_else(|| default_node("{}"));
        let defaults = match schema::Defaults::complete(&defaults, &Entries::default()).value {
            Value::Map(map) => map,
            Value::Scalar(_) | Value::Sequence(_) => Arc::default(),
        };
        schema::File::complete(&root, &defaults)
    }
}

/// Adds the TLS that is meant where nobody says one: what there is by an identity.
fn with_implied_tls(root: &mut Node) {
    let writer = Writer(Position::Default);
    let has_identity = get(root, "identity").is_some();
    if has_identity && get(root, "defaults.tls").is_none() {
        Override { field: "defaults.tls.mode", value: writer.text("mutual") }.put(root);
    }
    let Value::Map(map) = &mut root.value else { return };
    let servers = Arc::make_mut(map).list.iter_mut().find(|entry| &*entry.key == "servers");
    let Some(Node { value: Value::Sequence(servers), .. }) = servers.map(|entry| &mut entry.value) else { return };
    for server in Arc::make_mut(servers).iter_mut().filter(|server| get(server, "tls").is_none()) {
        let tls = if has_identity { "strict" } else { "disabled" };
        Override { field: "tls", value: writer.text(tls) }.put(server);
    }
}

/// The services; those that leave out their routes have the one that is meant.
fn with_implied_routes(services: &Node) -> Node {
    let Value::Map(map) = &services.value else { return services.clone() };
    let entries = map.list.iter().map(|entry| {
        let mut entry = entry.clone();
        if let Some(route) = implied_route(&entry.value)
            && let Value::Map(service) = &mut entry.value.value
        {
            let service = Arc::make_mut(service);
            service.list.retain(|entry| &*entry.key != "routes");
            service.list.push(Entry { key: "routes".into(), at: Position::Default, value: route });
        }
        entry
    });
    Node::map(entries, services.at)
}

fn implied_route(service: &Node) -> Option<Node> {
    let Value::Map(service) = &service.value else { return None };
    let is_written = |routes: &Entry| !matches!(&routes.value.value, Value::Sequence(routes) if routes.is_empty());
    if service.get("routes").is_some_and(is_written) {
        return None;
    }
    let Value::Map(backends) = &service.get("backends")?.value.value else { return None };
    let [only] = &backends.list[..] else { return None };
    let writer = Writer(Position::Default);
    let field = |key: &str, value: Node| Node::map([Entry { key: key.into(), at: writer.0, value }], writer.0);
    Some(writer.list([field("backends", writer.list([field("name", writer.text(&only.key))]))]))
}

/// Visits every scalar and every empty collection.
fn walk(node: &Node, path: Path<'_>, visit: &mut impl FnMut(&Node, Path<'_>)) {
    match &node.value {
        Value::Map(map) if !map.list.is_empty() => {
            map.list.iter().for_each(|entry| walk(&entry.value, path.key(&entry.key), visit));
        }
        Value::Sequence(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(index, item)| walk(item, path.index(index), visit));
        }
        _ => visit(node, path),
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printer { file: &self.file, f }.entries(&self.complete(), 0, false)
    }
}

/// Says nothing of what may be secret.
impl fmt::Debug for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Effective").field("file", &self.file).finish_non_exhaustive()
    }
}

struct Printer<'a, 'b> {
    file: &'a Arc<str>,
    f: &'a mut fmt::Formatter<'b>,
}

impl Printer<'_, '_> {
    /// The entries or items of a collection. `inline`: the first stands behind a dash, on a line that was begun.
    fn entries(&mut self, node: &Node, depth: usize, inline: bool) -> fmt::Result {
        let mut is_first = inline;
        let mut indent = |f: &mut fmt::Formatter<'_>| {
            let spaces = if std::mem::take(&mut is_first) { 0 } else { depth * 2 };
            write!(f, "{:spaces$}", "")
        };
        match &node.value {
            Value::Map(map) => map.list.iter().try_for_each(|entry| {
                indent(self.f)?;
                write!(self.f, "{}:", quoted(&entry.key))?;
                self.value(&entry.value, depth)
            }),
            Value::Sequence(items) => items.iter().try_for_each(|item| {
                indent(self.f)?;
                self.f.write_str("-")?;
                match &item.value {
                    Value::Map(map) if !map.list.is_empty() => {
                        self.f.write_str(" ")?;
                        self.entries(item, depth + 1, true)
                    }
                    _ => self.value(item, depth),
                }
            }),
            Value::Scalar(_) => Ok(()),
        }
    }

    /// What stands behind a key or a dash.
    fn value(&mut self, node: &Node, depth: usize) -> fmt::Result {
        let is_block = match &node.value {
            Value::Map(map) => !map.list.is_empty(),
            Value::Sequence(items) => !items.is_empty(),
            Value::Scalar(_) => false,
        };
        if is_block {
            self.f.write_str("\n")?;
            return self.entries(node, depth + 1, false);
        }
        // The name of a file may hold anything.
        let origin = node.at.origin(self.file).to_string().replace(char::is_control, "?");
        writeln!(self.f, " {}  # {origin}", leaf(node))
    }
}

fn leaf(node: &Node) -> String {
    match &node.value {
        Value::Scalar(Scalar { text, kind: Kind::String }) => quoted(text),
        Value::Scalar(Scalar { text, .. }) => text.to_string(),
        Value::Sequence(_) => "[]".to_owned(),
        Value::Map(_) => "{}".to_owned(),
    }
}

/// Text as YAML has it, in quotes unless it is clear without.
fn quoted(text: &str) -> String {
    let is_clear = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/+:-".contains(&b))
        && !text.ends_with(':')
        && scalar::resolve(text) == Kind::String;
    if is_clear {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            c if c.is_alphanumeric() => quoted.push(c),
            c => quoted.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

impl Serialize for Effective {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.settings())
    }
}

/// `path`, `value` as JSON has it, and `origin`.
impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut fields = serializer.serialize_struct("Setting", 3)?;
        fields.serialize_field("path", &self.path)?;
        match &self.plain {
            Some(Scalar { kind: Kind::Bool(value), .. }) => fields.serialize_field("value", value)?,
            Some(Scalar { kind: Kind::Int(value), .. }) => fields.serialize_field("value", &(*value as i64))?,
            Some(Scalar { kind: Kind::Float(value), .. }) => fields.serialize_field("value", value)?,
            Some(Scalar { text, .. }) => fields.serialize_field("value", &**text)?,
            None if self.value == "{}" => {
                fields.serialize_field("value", &std::collections::BTreeMap::<&str, ()>::new())?
            }
            None => fields.serialize_field("value", &[(); 0])?,
        }
        fields.serialize_field("origin", &self.origin)?;
        fields.end()
    }
}
