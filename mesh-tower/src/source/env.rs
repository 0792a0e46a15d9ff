//! Configuration from environment variables: [`mesh_core::config::VARIABLES`] has all of them.
//!
//! An empty variable counts as unset. What a variable says is put over each version of the file.

use std::ffi::OsString;
use std::path::PathBuf;

use mesh_core::config::Reader;

/// The variable that names the file.
const CONFIG: &str = "MESH_CONFIG";

/// What an environment says.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    /// The configuration file.
    pub(crate) file: Option<PathBuf>,
    /// Everything else.
    pub(crate) variables: Vec<(OsString, OsString)>,
}

impl Environment {
    pub(crate) fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let variables: Vec<_> = variables.into_iter().collect();
        let set = variables.iter().rev().find(|(name, value)| name == CONFIG && !value.is_empty());
        Self { file: set.map(|(_, path)| path.into()), variables }
    }

    /// Lets it have a say in what `reader` reads.
    pub(crate) fn over(self, reader: Reader) -> Reader {
        reader.with_environment(self.variables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(variables: &[(&str, &str)]) -> Option<PathBuf> {
        Environment::new(variables.iter().map(|(name, value)| (name.into(), value.into()))).file
    }

    #[test]
    fn cf_08_an_empty_variable_counts_as_unset() {
        assert_eq!(file(&[]), None);
        assert_eq!(file(&[("MESH_CONFIG", "")]), None);
        assert_eq!(file(&[("MESH_CONFIGS", "b.yaml"), ("MESH_CONFIG", "a.yaml")]), Some("a.yaml".into()));
    }
}
