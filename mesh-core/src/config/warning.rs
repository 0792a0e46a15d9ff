use std::fmt;

use super::origin::Origin;
use super::problem::sentence;

/// Something about a configuration that is legal and probably wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Warning {
    /// A word for its kind, which does not change between versions: `no-timeout`.
    pub code: &'static str,
    /// Who said what it is about.
    pub origin: Origin,
    /// The way to it: `services.greeter.routes[1].retry`. Empty if it is about no field.
    pub path: String,
    /// What is probably wrong.
    pub message: String,
    /// The way out.
    pub help: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        sentence(f, &self.origin, &self.path, &self.message, Some(&self.help))?;
        write!(f, " [{}]", self.code)
    }
}
