//! The configurations that the README files and the guide show are ones that the mesh takes, and links between documents
//! lead somewhere.
#![allow(clippy::unwrap_used, reason = "a panic is the failure of the test")]

use std::path::{Path, PathBuf};

use mesh_tonic::core::config;

/// The Markdown files that must show a configuration, from the root of the workspace.
const READMES: [&str; 4] = ["README.md", "mesh-tower/README.md", "mesh-tonic/README.md", "mesh-tonic/src/guide.md"];

/// The chapters of the guide; not all of them show one.
const GUIDE: &str = "mesh-tower/src/guide";

/// The documents whose links are looked at, from the root of the workspace.
const DOCUMENTS: [&str; 8] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benches/README.md",
    "mesh-tower/README.md",
    "mesh-tonic/README.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// How many configurations `file` shows.
fn check(file: &Path) -> usize {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    blocks
        .map(|block| config::parse(block.as_bytes(), &file.display().to_string(), Path::new("")))
        .inspect(|result| assert!(result.is_ok(), "{}", result.as_ref().unwrap_err()))
        .count()
}

#[test]
fn every_configuration_of_a_readme_is_valid() {
    for name in READMES {
        assert!(check(&root().join(name)) > 0, "{name} shows a configuration");
    }
}

#[test]
fn every_configuration_of_the_guide_is_valid() {
    let chapters = std::fs::read_dir(root().join(GUIDE)).unwrap().map(|entry| entry.unwrap().path());
    let shown: usize = chapters.filter(|path| path.extension() == Some("md".as_ref())).map(|path| check(&path)).sum();
    assert!(shown >= 5, "there are several: {shown}");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut links = 0;
    for name in DOCUMENTS {
        let file = root().join(name);
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for target in targets.filter(|target| !target.is_empty() && !target.contains("://")) {
            assert!(file.with_file_name(target).exists(), "{name}: nothing is at {target}");
            links += 1;
        }
    }
    assert!(links > 20, "there are many: {links}");
}
