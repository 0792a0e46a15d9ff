//! What tests of a mesh need.

mod resolver;

pub use resolver::ScriptedResolver;
