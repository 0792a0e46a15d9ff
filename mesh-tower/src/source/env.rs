//! Configuration from environment variables.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `MESH_CONFIG` | path of the configuration file |
//!
//! An empty variable counts as unset.

use std::path::PathBuf;

use super::BuildError;

/// The variable that names the file.
pub(crate) const CONFIG: &str = "MESH_CONFIG";

pub(crate) fn config_path() -> Result<PathBuf, BuildError> {
    from_value(std::env::var_os(CONFIG))
}

fn from_value(value: Option<std::ffi::OsString>) -> Result<PathBuf, BuildError> {
    match value {
        Some(path) if path.is_empty() => Err(BuildError::NotInEnvironment { variable: CONFIG }),
        Some(path) => Ok(path.into()),
        None => Err(BuildError::NotInEnvironment { variable: CONFIG }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cf_08_an_empty_variable_counts_as_unset() {
        for value in [None, Some("".into())] {
            let error = from_value(value).unwrap_err();
            assert!(error.to_string().contains("MESH_CONFIG=mesh.yaml"), "{error}");
        }
        assert_eq!(from_value(Some("a.yaml".into())).unwrap(), PathBuf::from("a.yaml"));
    }
}
