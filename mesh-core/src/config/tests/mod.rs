mod effective;
mod example;
mod hostile;
mod json_schema;
mod lint;
mod many;
mod overrides;
mod reference;
mod resilience;
mod sections;
mod security;
mod yaml;

use std::path::Path;

use super::{ConfigError, Problem, parse};
use crate::model::Config;

fn read(text: &str) -> Result<Config, ConfigError> {
    parse(text.as_bytes(), "mesh.yaml", Path::new("/etc/mesh"))
}

/// The configuration in `text`, which has no problem.
fn good(text: &str) -> Config {
    match read(text) {
        Ok(config) => config,
        Err(error) => panic!("{error}\nin\n{text}"),
    }
}

/// The problems of `text`, which has some.
fn bad(text: &str) -> Vec<Problem> {
    match read(text) {
        Ok(config) => panic!("no problem found in\n{text}\n{config:?}"),
        Err(error) => error.problems().to_vec(),
    }
}

/// The only problem of `text`.
fn only_problem(text: &str) -> Problem {
    match <[Problem; 1]>::try_from(bad(text)) {
        Ok([problem]) => problem,
        Err(problems) => panic!("{problems:#?}\nin\n{text}"),
    }
}
