//! What a value of the file may look like, and how it is read.
//!
//! A [`Shape`] reads a node of the tree; what it refuses it reports, and reading goes on. A section (a map with known
//! fields) is declared once by [`section!`]: the names, shapes, defaults and meanings of its fields are data, from
//! which the reader, its messages and the reference of the schema come.

use std::borrow::Cow;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;

use super::problem::{Draft, Path, Position, Problems, shorten};
use super::suggest::did_you_mean;
use super::tree::{Entry, Node, Value};
use crate::model::Pattern;

/// A kind of value.
pub(super) trait Shape {
    /// What it is read into.
    type Value;

    /// How messages and the reference call it: `an integer from 1 to 10`.
    fn form() -> Cow<'static, str>;

    /// Reads `node`. `None`: it is not of this shape at all, and that has been reported.
    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value>;
}

/// What reading needs besides the tree.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) problems: Problems,
    /// Every regular expression of the file, compiled once.
    pub(super) patterns: HashMap<Arc<str>, Result<Pattern, String>>,
}

impl Context {
    pub(super) fn new(file: &str) -> Self {
        Self { problems: Problems::new(file), patterns: HashMap::new() }
    }

    pub(super) fn report(&mut self, at: Position, path: Path<'_>, draft: impl FnOnce() -> Draft) {
        self.problems.report(at, path, draft);
    }

    /// Reports that `node` is not `form`.
    pub(super) fn mismatch(&mut self, node: &Node, path: Path<'_>, form: &str, help: Option<String>) {
        self.report(node.at, path, || node.draft(format!("{} is not {form}", node.shown())).maybe_help(help));
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Spanned<V> {
    pub(super) value: V,
    pub(super) at: Position,
}

/// A field of a section, as far as it could be read.
#[derive(Debug, Clone)]
pub(super) enum Field<V> {
    /// It is not there.
    Absent,
    /// It is there but was refused.
    Invalid,
    /// It is not there, and this is its default.
    Default(V),
    /// It is there.
    Given(Spanned<V>),
}

impl<V> Field<V> {
    /// What was written, or the default.
    pub(super) fn value(&self) -> Option<&V> {
        match self {
            Self::Absent | Self::Invalid => None,
            Self::Default(value) | Self::Given(Spanned { value, .. }) => Some(value),
        }
    }

    /// What was written.
    pub(super) fn given(&self) -> Option<&Spanned<V>> {
        match self {
            Self::Given(given) => Some(given),
            _ => None,
        }
    }

    /// Whether something was written, be it right or wrong.
    pub(super) fn is_written(&self) -> bool {
        matches!(self, Self::Invalid | Self::Given(_))
    }

    /// Whether something wrong was written.
    pub(super) fn is_invalid(&self) -> bool {
        matches!(self, Self::Invalid)
    }
}

impl<V: Clone> Field<V> {
    /// What was written, or the default; `fallback` where neither can be had.
    pub(super) fn or(&self, fallback: V) -> V {
        self.value().cloned().unwrap_or(fallback)
    }
}

/// Whether a field must be there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Presence {
    Required,
    Optional,
    /// The default, written as a user would: a scalar, or `{}`.
    DefaultsTo(&'static str),
}

/// The declaration of a field.
#[derive(Debug)]
pub(super) struct FieldSpec {
    pub(super) name: &'static str,
    pub(super) form: fn() -> Cow<'static, str>,
    pub(super) presence: Presence,
    /// Its meaning, in one line.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test makes the reference of it"))]
    pub(super) about: &'static str,
}

/// A map with known fields.
pub(super) trait Section {
    /// How messages call it: `a retry policy`.
    const FORM: &'static str;
    /// The fields.
    const FIELDS: &'static [FieldSpec];
    /// Fields of a later version, which are refused with a word about it.
    const NOT_YET: &'static [&'static str];
}

/// The text behind the name of everything that exists but not here.
pub(super) const NOT_YET: &str = "is not supported in this version";

/// Declares sections: per field its name, shape and presence; its documentation is its meaning in the reference.
macro_rules! section {
    ($(
        $(#[doc = $section_about:literal])+
        $section:ident: $form:literal {
            $( #[doc = $about:literal] $field:ident: $shape:ty = $presence:expr, )+
        } not yet { $($not_yet:ident),* $(,)? }
    )+) => {$(
        $(#[doc = $section_about])+
        #[derive(Debug, Clone)]
        pub(super) struct $section {
            #[allow(dead_code, reason = "not every section is the place of a problem")]
            pub(super) at: $crate::config::problem::Position,
            $( #[doc = $about] pub(super) $field: $crate::config::shape::Field<<$shape as $crate::config::shape::Shape>::Value>, )+
        }

        impl $crate::config::shape::Section for $section {
            const FORM: &'static str = $form;
            const FIELDS: &'static [$crate::config::shape::FieldSpec] = &[$($crate::config::shape::FieldSpec {
                name: stringify!($field),
                form: <$shape as $crate::config::shape::Shape>::form,
                presence: $presence,
                about: $about,
            }),+];
            const NOT_YET: &'static [&'static str] = &[$(stringify!($not_yet)),*];
        }

        impl $crate::config::shape::Shape for $section {
            type Value = Self;

            fn form() -> std::borrow::Cow<'static, str> {
                $form.into()
            }

            fn read(
                node: &$crate::config::tree::Node,
                path: $crate::config::problem::Path<'_>,
                context: &mut $crate::config::shape::Context,
            ) -> Option<Self> {
                let reader = $crate::config::shape::Fields::of::<Self>(node, path, context)?;
                Some(Self { at: node.at, $( $field: reader.read::<$shape>(stringify!($field), context), )+ })
            }
        }
    )+};
}
pub(super) use section;

/// The entries of a map that is read as a section.
pub(super) struct Fields<'a> {
    entries: &'a [Entry],
    specs: &'static [FieldSpec],
    at: Position,
    path: Path<'a>,
}

impl<'a> Fields<'a> {
    /// The entries of `node`, those reported that the section does not have.
    pub(super) fn of<S: Section>(node: &'a Node, path: Path<'a>, context: &mut Context) -> Option<Self> {
        let names = || S::FIELDS.iter().map(|spec| spec.name);
        let Value::Map(entries) = &node.value else {
            let help = format!("write a map with the fields {}", list(names()));
            context.mismatch(node, path, S::FORM, Some(help));
            return None;
        };
        for Entry { key, at, .. } in entries.iter() {
            if names().any(|name| name == &**key) {
                continue;
            }
            context.report(*at, path.key(key), || {
                let draft = if S::NOT_YET.contains(&&**key) {
                    Draft::new(format!("`{key}` {NOT_YET}")).help("remove it")
                } else {
                    let known = names().chain(S::NOT_YET.iter().copied());
                    let message = format!("unknown field `{}`: {} has {}", shorten(key), S::FORM, list(names()));
                    Draft::new(message).maybe_help(did_you_mean(key, known))
                };
                draft.about(key)
            });
        }
        Some(Self { entries, specs: S::FIELDS, at: node.at, path })
    }

    /// Reads the field `name`.
    pub(super) fn read<T: Shape>(&self, name: &'static str, context: &mut Context) -> Field<T::Value> {
        let path = self.path.key(name);
        let Some(spec) = self.specs.iter().find(|spec| spec.name == name) else { return Field::Absent };
        let Some(entry) = self.entries.iter().find(|entry| &*entry.key == name) else {
            return match spec.presence {
                Presence::Optional => Field::Absent,
                Presence::DefaultsTo(text) => match T::read(&default_node(text, self.at), path, context) {
                    Some(value) => Field::Default(value),
                    None => Field::Invalid,
                },
                Presence::Required => {
                    let message = || format!("`{name}` is missing: {} is required", (spec.form)());
                    context.report(self.at, path, || Draft::new(message()));
                    Field::Invalid
                }
            };
        };
        let node = &entry.value;
        if node.is_null() {
            let help = match spec.presence {
                Presence::Required => None,
                Presence::Optional => Some("or remove the field".to_owned()),
                Presence::DefaultsTo(text) => Some(format!("or remove the field for its default, {text}")),
            };
            let message = || format!("`{name}` has no value: write {}", (spec.form)());
            context.report(entry.at, path, || node.draft(message()).maybe_help(help));
            return Field::Invalid;
        }
        read_field::<T>(node, path, context)
    }
}

fn default_node(text: &str, at: Position) -> Node {
    match text {
        "{}" => Node { value: Value::Map(Arc::new(Vec::new())), at },
        scalar => Node::plain(scalar, at),
    }
}

fn read_field<T: Shape>(node: &Node, path: Path<'_>, context: &mut Context) -> Field<T::Value> {
    match T::read(node, path, context) {
        Some(value) => Field::Given(Spanned { value, at: node.at }),
        None => Field::Invalid,
    }
}

/// `a, b, c`, and no more than a reader would read.
pub(super) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const MAX: usize = 20;
    let mut names = names.into_iter();
    let mut shown: Vec<_> = names.by_ref().take(MAX).map(|name| format!("`{}`", shorten(name))).collect();
    if names.next().is_some() {
        shown.push("..".to_owned());
    }
    shown.join(", ")
}

/// Values in order.
pub(super) struct List<T>(PhantomData<T>);

impl<T: Shape> Shape for List<T> {
    type Value = Vec<Field<T::Value>>;

    fn form() -> Cow<'static, str> {
        format!("a list, each item {}", T::form()).into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        let Value::Sequence(items) = &node.value else {
            let help = matches!(node.value, Value::Scalar(_)).then(|| format!("write `[{}]`", node.shown()));
            context.mismatch(node, path, &Self::form(), help);
            return None;
        };
        let items = items.iter().enumerate();
        Some(items.map(|(index, item)| read_field::<T>(item, path.index(index), context)).collect())
    }
}

/// Values in order, at least one.
pub(super) struct OneOrMore<T>(PhantomData<T>);

impl<T: Shape> Shape for OneOrMore<T> {
    type Value = Vec<Field<T::Value>>;

    fn form() -> Cow<'static, str> {
        format!("a list of at least one item, each {}", T::form()).into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        let items = List::<T>::read(node, path, context)?;
        if items.is_empty() {
            context.report(node.at, path, || node.draft(format!("an empty list is not {}", Self::form())));
            return None;
        }
        Some(items)
    }
}

/// Values by name, at least one.
pub(super) struct Map<T>(PhantomData<T>);

/// An entry of a [`Map`]. Its name is kept even if its value was refused: others may refer to it.
#[derive(Debug, Clone)]
pub(super) struct Named<V> {
    pub(super) name: Arc<str>,
    pub(super) at: Position,
    pub(super) value: Option<V>,
}

impl<T: Shape> Shape for Map<T> {
    type Value = Vec<Named<T::Value>>;

    fn form() -> Cow<'static, str> {
        format!("a map of at least one name, each to {}", T::form()).into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        let Value::Map(entries) = &node.value else {
            context.mismatch(node, path, &Self::form(), None);
            return None;
        };
        if entries.is_empty() {
            context.report(node.at, path, || node.draft(format!("an empty map is not {}", Self::form())));
            return None;
        }
        let read = |entry: &Entry| {
            let Entry { key, at, value } = entry;
            let path = path.key(key);
            if !is_name(key) {
                context.report(*at, path, || {
                    let shown = shorten(key);
                    Draft::new(format!("{shown:?} is not a name: write 1 to {MAX_NAME} letters, digits, `-`, `.`, `_`"))
                        .about(key)
                });
            }
            Named { name: key.clone(), at: *at, value: T::read(value, path, context) }
        };
        Some(entries.iter().map(read).collect())
    }
}

/// The longest name of a service or a backend, in bytes.
const MAX_NAME: usize = 253;

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}
