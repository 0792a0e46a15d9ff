//! The configurations that the README files show are ones that the mesh takes.

use std::path::Path;

use mesh_tonic::core::config;

const READMES: [(&str, &str); 3] = [
    ("README.md", include_str!("../../README.md")),
    ("mesh-tower/README.md", include_str!("../../mesh-tower/README.md")),
    ("mesh-tonic/README.md", include_str!("../../mesh-tonic/README.md")),
];

#[test]
fn every_configuration_of_a_readme_is_valid() {
    for (name, text) in READMES {
        let mut blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
        let first = blocks.next().unwrap_or_else(|| panic!("{name} shows a configuration"));
        for block in std::iter::once(first).chain(blocks) {
            if let Err(error) = config::parse(block.as_bytes(), name, Path::new("")) {
                panic!("{error}");
            }
        }
    }
}
