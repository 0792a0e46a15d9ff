//! Maps with known fields, each declared once.
//!
//! The names, shapes, defaults and meanings of the fields are data: the reader, its messages and the reference of the
//! schema come from them.

use std::borrow::Cow;
use std::sync::Arc;

use super::origin::Position;
use super::problem::{Draft, Path, shorten};
use super::shape::{Context, Field, NOT_YET, Shape, list, read_field};
use super::suggest::{did_you_mean, nearest};
use super::tree::{Entries, Entry, Node, Value};

/// Whether a field must be there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Presence {
    Required,
    Optional,
    /// The default, written as a user would: a scalar, a list of words, or `{}`.
    DefaultsTo(&'static str),
    /// Where it is left out, the field of the same name of `defaults` holds.
    Inherits,
    /// The same, unless the field of this name is there and not `none`.
    InheritsUnless(&'static str),
    /// Where it is left out, it follows from its neighbours, or there is none. The text is what the reference says.
    Follows(&'static str, fn(&Entries) -> Option<String>),
}

/// The declaration of a field.
#[derive(Debug)]
pub(super) struct FieldSpec {
    pub(super) name: &'static str,
    pub(super) form: fn() -> Cow<'static, str>,
    pub(super) presence: Presence,
    pub(super) complete: fn(&Node, &Entries) -> Node,
    #[cfg(test)]
    pub(super) schema: fn(&mut crate::config::json_schema::Definitions) -> crate::config::json_schema::Schema,
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
        pub(in $crate::config) struct $section {
            #[allow(dead_code, reason = "not every section is the place of a problem")]
            pub(in $crate::config) at: $crate::config::origin::Position,
            /// Whether something of it was refused that may have been any of its fields: none can be called missing.
            #[allow(dead_code, reason = "most sections say themselves what must be there")]
            pub(in $crate::config) is_doubtful: bool,
            $( #[doc = $about] pub(in $crate::config) $field: $crate::config::shape::Field<<$shape as $crate::config::shape::Shape>::Value>, )+
        }

        impl $crate::config::section::Section for $section {
            const FORM: &'static str = $form;
            const FIELDS: &'static [$crate::config::section::FieldSpec] = &[$($crate::config::section::FieldSpec {
                name: stringify!($field),
                form: <$shape as $crate::config::shape::Shape>::form,
                presence: $presence,
                complete: <$shape as $crate::config::shape::Shape>::complete,
                #[cfg(test)]
                schema: <$shape as $crate::config::shape::Shape>::schema,
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
                let reader = $crate::config::section::Fields::of::<Self>(node, path, context)?;
                Some(Self { at: node.at, is_doubtful: reader.is_doubtful(), $( $field: reader.read::<$shape>(stringify!($field), context), )+ })
            }

            fn complete(
                node: &$crate::config::tree::Node,
                defaults: &$crate::config::tree::Entries,
            ) -> $crate::config::tree::Node {
                $crate::config::section::complete::<Self>(node, defaults)
            }

            #[cfg(test)]
            fn schema(
                definitions: &mut $crate::config::json_schema::Definitions,
            ) -> $crate::config::json_schema::Schema {
                definitions.section::<Self>(stringify!($section), concat!($($section_about),+))
            }
        }
    )+};
}
pub(super) use section;

/// The entries of a map that is read as a section.
pub(super) struct Fields<'a> {
    map: &'a Entries,
    specs: &'static [FieldSpec],
    at: Position,
    path: Path<'a>,
}

impl<'a> Fields<'a> {
    /// The entries of `node`, those reported that the section does not have.
    pub(super) fn of<S: Section>(node: &'a Node, path: Path<'a>, context: &mut Context) -> Option<Self> {
        let names = || S::FIELDS.iter().map(|spec| spec.name);
        let Value::Map(map) = &node.value else {
            let help = format!("write a map with the fields {}", list(names()));
            context.mismatch(node, path, S::FORM, Some(help));
            return None;
        };
        for Entry { key, at, .. } in &map.list {
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
        Some(Self { map, specs: S::FIELDS, at: node.at, path })
    }

    /// Reads the field `name`.
    pub(super) fn read<T: Shape>(&self, name: &'static str, context: &mut Context) -> Field<T::Value> {
        let path = self.path.key(name);
        let Some(spec) = self.specs.iter().find(|spec| spec.name == name) else { return Field::Absent };
        let Some(entry) = self.map.list.iter().find(|entry| &*entry.key == name) else {
            return match spec.presence {
                Presence::Optional | Presence::Inherits | Presence::InheritsUnless(_) | Presence::Follows(..) => {
                    Field::Absent
                }
                Presence::DefaultsTo(text) => match T::read(&default_node(text), path, context) {
                    Some(value) => Field::Default(value),
                    None => Field::Invalid,
                },
                Presence::Required => {
                    if !self.map.is_incomplete && !self.is_misspelt(name) {
                        let message = || format!("`{name}` is missing: write {}", (spec.form)());
                        context.report(self.at, path, || Draft::new(message()));
                    }
                    Field::Invalid
                }
            };
        };
        let node = &entry.value;
        if node.is_null() {
            let help = match spec.presence {
                Presence::Required => None,
                Presence::Optional => Some("or remove the field".to_owned()),
                Presence::Follows(default, _) => Some(format!("or remove the field for its default, {default}")),
                Presence::Inherits | Presence::InheritsUnless(_) => {
                    Some("or remove the field for that of `defaults`".to_owned())
                }
                Presence::DefaultsTo(text) => Some(format!("or remove the field for its default, {text}")),
            };
            let message = || format!("`{name}` has no value: write {}", (spec.form)());
            context.report(entry.at, path, || node.draft(message()).maybe_help(help));
            return Field::Invalid;
        }
        read_field::<T>(node, path, context)
    }

    /// Whether entries were refused that may have been fields.
    pub(super) fn is_doubtful(&self) -> bool {
        self.map.is_incomplete || self.misspelt().next().is_some()
    }

    /// Whether an unknown field was reported as most likely meant for `name`.
    fn is_misspelt(&self, name: &str) -> bool {
        self.misspelt().any(|meant| meant == name)
    }

    /// The fields that unknown ones were most likely meant for.
    fn misspelt(&self) -> impl Iterator<Item = &'static str> {
        let specs = self.specs;
        let names = move || specs.iter().map(|spec| spec.name);
        // Comparing is slow; nobody misspells a name in more ways.
        const MAX_COMPARED: usize = 100;
        let keys = self.map.list.iter().map(|entry| &*entry.key);
        let unknown = keys.filter(move |key| !names().any(|name| name == *key));
        unknown.take(MAX_COMPARED).filter_map(move |key| nearest(key, names()))
    }
}

/// [`Shape::complete`] of a section: its fields in the order of their declaration.
pub(super) fn complete<S: Section>(node: &Node, defaults: &Entries) -> Node {
    let Value::Map(map) = &node.value else { return node.clone() };
    let mut all = Entries::default();
    for FieldSpec { name, presence, complete, .. } in S::FIELDS {
        let (value, at) = match (map.get(name), presence) {
            (Some(entry), _) => (complete(&entry.value, defaults), entry.at),
            (None, Presence::DefaultsTo(text)) => (complete(&default_node(text), defaults), Position::Default),
            (None, Presence::Follows(_, from)) => match from(&all) {
                Some(text) => (default_node(&text), Position::Default),
                None => continue,
            },
            (None, Presence::InheritsUnless(other))
                if map.get(other).is_some_and(|entry| !entry.value.is_text("none")) =>
            {
                continue;
            }
            (None, Presence::Inherits | Presence::InheritsUnless(_)) => match defaults.get(name) {
                Some(entry) => (entry.value.clone(), entry.at),
                None => continue,
            },
            (None, Presence::Required | Presence::Optional) => continue,
        };
        all.list.push(Entry { key: (*name).into(), at, value });
    }
    Node::map(all.list, node.at)
}

/// A default as a node.
pub(super) fn default_node(text: &str) -> Node {
    let at = Position::Default;
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(words) => {
            let words = words.split(',').map(|word| Node::plain(word.trim(), at));
            Node { value: Value::Sequence(Arc::new(words.collect())), at }
        }
        None if text == "{}" => Node { value: Value::Map(Arc::default()), at },
        None => Node::plain(text, at),
    }
}
