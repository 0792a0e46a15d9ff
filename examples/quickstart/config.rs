use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The file as it stands beside this one.
const TEMPLATE: &str = include_str!("mesh.yaml");
/// The addresses in it, v1's first.
pub(crate) const ADDRESSES: [&str; 5] =
    ["127.0.0.1:50051", "127.0.0.1:50052", "127.0.0.1:50053", "127.0.0.1:50061", "127.0.0.1:50062"];
/// The weights in it.
pub(crate) const WEIGHTS: [u32; 2] = [90, 10];

/// The copy of `mesh.yaml` that the mesh follows.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    addresses: [SocketAddr; 5],
}

impl ConfigFile {
    /// A file in `directory` with the template's weights and these addresses.
    pub(crate) fn create(directory: &Path, addresses: [SocketAddr; 5]) -> io::Result<Self> {
        let file = Self { path: directory.join("mesh.yaml"), addresses };
        file.save(WEIGHTS)?;
        Ok(file)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Saves it with other weights, as editors do: written beside it, then put in its place whole.
    pub(crate) fn save(&self, weights: [u32; 2]) -> io::Result<()> {
        let beside = self.path.with_extension("yaml.new");
        std::fs::write(&beside, fill_in(self.addresses, weights))?;
        std::fs::rename(beside, &self.path)
    }
}

fn fill_in(addresses: [SocketAddr; 5], weights: [u32; 2]) -> String {
    let mut text = TEMPLATE.to_owned();
    for (backend, (from, to)) in ["v1", "v2"].into_iter().zip(WEIGHTS.into_iter().zip(weights)) {
        text = text.replace(&weight(backend, from), &weight(backend, to));
    }
    // Two steps: an address of ours might be one of the template's.
    for (index, from) in ADDRESSES.iter().enumerate() {
        text = text.replace(from, &placeholder(index));
    }
    for (index, to) in addresses.iter().enumerate() {
        text = text.replace(&placeholder(index), &to.to_string());
    }
    text
}

fn weight(backend: &str, weight: u32) -> String {
    format!("name: {backend}, weight: {weight} ")
}

fn placeholder(index: usize) -> String {
    format!("<endpoint {index}>")
}

#[cfg(test)]
mod tests {
    use mesh_tonic::core::{config, model};

    use super::*;

    fn read(text: &str) -> model::Config {
        config::parse(text.as_bytes(), "mesh.yaml", Path::new("")).unwrap()
    }

    fn weights(config: &model::Config) -> Vec<u32> {
        match &config.virtual_hosts[0].routes[0].action {
            model::RouteAction::Forward(forward) => forward.backends.iter().map(|backend| backend.weight).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn addresses(config: &model::Config) -> Vec<String> {
        let endpoints = config.backends.values().flat_map(|backend| &backend.endpoints);
        endpoints.map(|endpoint| endpoint.address.to_string()).collect()
    }

    #[test]
    fn the_template_is_a_configuration_itself() {
        let config = read(TEMPLATE);
        assert_eq!(weights(&config), WEIGHTS);
        assert_eq!(addresses(&config), ADDRESSES);
    }

    #[test]
    fn addresses_and_weights_are_put_in() {
        // Some of them are the template's, in other places.
        let ours = ["127.0.0.1:50061", "127.0.0.1:1", "127.0.0.1:50051", "127.0.0.1:50052", "127.0.0.1:2"];
        for expected in [[90, 10], [50, 50], [0, 100]] {
            let config = read(&fill_in(ours.map(|address| address.parse().unwrap()), expected));
            assert_eq!(weights(&config), expected);
            assert_eq!(addresses(&config), ours);
        }
    }
}
