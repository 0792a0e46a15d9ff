//! A certificate authority and identities for development.
//!
//! ```sh
//! cargo run --example certs -- certs                                    # client and server, for a day
//! cargo run --example certs -- certs --identity ns/shop/sa/cart --ttl 10s # again in that time, for one that rotates
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a program")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use examples::certs::{Authority, Error, Leaf, Swap};
use mesh_tonic::core::config::parse_duration;

const USAGE: &str = "\
usage: certs [OPTIONS] DIR

Issues identities (X.509 SVIDs) by an authority that is kept in DIR, for development: its key lies there too. Run again
it keeps the authority, and replaces certificates and keys by new ones.

  --trust-domain D  whose identities they are (default cluster.local)
  --identity ID     spiffe://D/PATH, or PATH alone, as in ns/default/sa/shop; may be repeated
                    (default ns/default/sa/client and ns/default/sa/server)
  --ttl T           how long they are valid, as in 24h or 10s (default 24h)

  DIR/ca.crt, DIR/ca.key   the authority, valid for ten years
  DIR/NAME/                of each identity: tls.crt, tls.key, and ca.crt, by which peers are verified. NAME is the last
                           segment of PATH; identities that share it have all of PATH, with dots for the slashes. On Unix
                           the files are swapped together, as in a secret that Kubernetes mounts

exit code: 0; 1 if something could not be read or written; 2 if the arguments were bad";

#[derive(Debug, PartialEq)]
struct Args {
    directory: PathBuf,
    trust_domain: String,
    identities: Vec<String>,
    ttl: Duration,
}

fn main() -> ExitCode {
    let words: Result<Vec<_>, _> = std::env::args_os().skip(1).map(OsString::into_string).collect();
    let (text, code) = match words.map_err(|word| format!("{word:?} is not UTF-8")).and_then(parse) {
        Ok(Some(args)) => match run(&args) {
            Ok(text) => (text, ExitCode::SUCCESS),
            Err(error) => {
                let usage = matches!(error, Error::TrustDomain(_) | Error::Identity { .. });
                eprintln!("{error}");
                return if usage { ExitCode::from(2) } else { ExitCode::FAILURE };
            }
        },
        Ok(None) => (format!("{USAGE}\n"), ExitCode::SUCCESS),
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let written = std::io::stdout().lock().write_all(text.as_bytes());
    if written.is_err() { ExitCode::FAILURE } else { code }
}

/// Reads `words`, the arguments without the program's name. `None` if help is wanted.
fn parse(words: impl IntoIterator<Item = String>) -> Result<Option<Args>, String> {
    let (mut directory, mut trust_domain, mut identities, mut ttl) = (None, None, Vec::new(), None);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        // `--ttl=1h` is `--ttl 1h`.
        let (flag, mut inline) = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        let mut value = || inline.take().or_else(|| words.next()).ok_or_else(|| format!("{flag} needs a value"));
        match flag {
            "--help" | "-h" => return Ok(None),
            "--trust-domain" => trust_domain = Some(value()?),
            "--identity" => identities.push(value()?),
            "--ttl" => {
                let text = value()?;
                let duration = parse_duration(&text).filter(|duration| *duration >= Duration::from_secs(1));
                ttl = Some(duration.ok_or_else(|| {
                    format!("--ttl: {text:?} is not a duration of at least a second; write 24h, 1h30m or 10s")
                })?);
            }
            _ if flag.starts_with('-') => return Err(format!("unknown argument {flag}")),
            _ if directory.is_some() => return Err(format!("one directory is enough; {word:?} is another")),
            "" => return Err("the name of the directory is empty".to_owned()),
            _ => directory = Some(PathBuf::from(&word)),
        }
        if inline.is_some() {
            return Err(format!("{flag} takes no value"));
        }
    }
    if identities.is_empty() {
        identities = ["ns/default/sa/client", "ns/default/sa/server"].map(str::to_owned).into();
    }
    Ok(Some(Args {
        directory: directory.ok_or("the directory is missing")?,
        trust_domain: trust_domain.unwrap_or_else(|| "cluster.local".to_owned()),
        identities,
        ttl: ttl.unwrap_or(Duration::from_secs(24 * 60 * 60)),
    }))
}

/// Writes what `args` asks for, and says what was written.
fn run(args: &Args) -> Result<String, Error> {
    // Nothing is written before all is known to be good; an authority that is only asked for names is not kept.
    let names = Authority::new(&args.trust_domain)?;
    let identities = args.identities.iter().map(|text| names.identity(text)).collect::<Result<BTreeSet<_>, _>>()?;
    let directories = directories(&names, &identities)?;
    let authority = Authority::open(&args.directory, &args.trust_domain)?;
    #[cfg(unix)]
    let swap = Swap::Symlink;
    #[cfg(not(unix))]
    let swap = Swap::Files;

    let mut told = format!(
        "{}: the authority of the trust domain {}\n",
        args.directory.join("ca.crt").display(),
        authority.trust_domain()
    );
    for (name, identity) in directories {
        let directory = args.directory.join(name);
        authority.issue(&Leaf::new(identity).ttl(args.ttl))?.write_to(&directory, swap)?;
        // Whoever reads the configuration may stand elsewhere.
        let directory = std::path::absolute(&directory).unwrap_or(directory);
        let file = |name: &str| yaml(&directory.join(name));
        write!(
            told,
            "\n{}: {identity}, valid for {:?}\nidentity:\n  certificate: {}\n  key: {}\n  trust_bundle: {}\n",
            directory.display(),
            args.ttl,
            file("tls.crt"),
            file("tls.key"),
            file("ca.crt"),
        )
        .expect("writing to a string cannot fail");
    }
    Ok(told)
}

/// The directory of each identity: its last segment, or its whole path if that is another's too.
fn directories<'a>(
    authority: &Authority,
    identities: &'a BTreeSet<String>,
) -> Result<BTreeMap<String, &'a str>, Error> {
    let start = "spiffe://".len() + authority.trust_domain().len() + 1;
    let last = |identity: &'a str| identity.rsplit('/').next().unwrap_or_default();
    let mut directories = BTreeMap::new();
    for identity in identities {
        let shared = identities.iter().filter(|other| last(other) == last(identity)).count() > 1;
        let name = if shared { identity[start..].replace('/', ".") } else { last(identity).to_owned() };
        let taken = matches!(name.as_str(), "ca.crt" | "ca.key") || directories.contains_key(&name);
        if taken {
            let problem = "the directory that it would be written to is taken";
            let trust_domain = authority.trust_domain().to_owned();
            return Err(Error::Identity { text: identity.clone(), problem, trust_domain });
        }
        directories.insert(name, identity.as_str());
    }
    Ok(directories)
}

/// A path as YAML has it: in quotes, if it could be taken for something else.
fn yaml(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |character: char| character.is_alphanumeric() || "/._-".contains(character);
    if text.starts_with('/') && text.chars().all(plain) { text.into_owned() } else { format!("{text:?}") }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(words: &str) -> Result<Option<Args>, String> {
        parse(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_read() {
        let args = read("certs").unwrap().unwrap();
        assert_eq!(args.identities, ["ns/default/sa/client", "ns/default/sa/server"]);
        assert_eq!((&*args.trust_domain, args.ttl), ("cluster.local", Duration::from_secs(24 * 3600)));
        let args =
            read("--trust-domain=a.b --identity x certs --identity spiffe://a.b/y --ttl 1m30s").unwrap().unwrap();
        let expected = Args {
            directory: "certs".into(),
            trust_domain: "a.b".to_owned(),
            identities: vec!["x".to_owned(), "spiffe://a.b/y".to_owned()],
            ttl: Duration::from_secs(90),
        };
        assert_eq!(args, expected);
        assert_eq!(read("certs --help").unwrap(), None);
        for (words, reason) in [
            ("", "the directory is missing"),
            ("a b", "one directory is enough"),
            ("a --ttl", "--ttl needs a value"),
            ("a --ttl 1", "\"1\" is not a duration"),
            ("a --ttl 500ms", "at least a second"),
            ("a --trust 1", "unknown argument --trust"),
        ] {
            let error = read(words).unwrap_err();
            assert!(error.contains(reason), "{words}: {error}");
        }
        assert!(parse([String::new()]).unwrap_err().contains("is empty"));
    }

    fn made(directory: &Path, words: &str) -> Result<String, Error> {
        let mut args = read(&format!("x {words}")).unwrap().unwrap();
        directory.clone_into(&mut args.directory);
        run(&args)
    }

    #[test]
    fn running_it_again_keeps_the_authority_and_renews_the_rest() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("certs");
        let told = made(&directory, "").unwrap();
        let file = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
        let before = ["ca.crt", "ca.key", "server/tls.crt", "server/tls.key", "client/tls.crt"].map(file);
        for name in ["server", "client"] {
            assert_eq!(file(&format!("{name}/ca.crt")), before[0]);
            assert!(told.contains(&format!("spiffe://cluster.local/ns/default/sa/{name}, valid for")), "{told}");
            let certificate = yaml(&directory.join(name).join("tls.crt"));
            assert!(told.contains(&format!("identity:\n  certificate: {certificate}\n  key: ")), "{told}");
        }
        made(&directory, "").unwrap();
        let after = ["ca.crt", "ca.key", "server/tls.crt", "server/tls.key", "client/tls.crt"].map(file);
        assert_eq!(after[..2], before[..2]);
        assert!(after[2..].iter().zip(&before[2..]).all(|(after, before)| after != before));
    }

    #[test]
    fn what_would_not_work_is_refused_before_anything_is_written() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("certs");
        for (words, reason) in [
            ("--identity spiffe://elsewhere/x", "of another trust domain"),
            ("--trust-domain A", "no trust domain"),
            ("--identity ns/ca.key", "is taken"),
            ("--identity a/x --identity b/x --identity c/a.x", "is taken"),
        ] {
            let error = made(&directory, words).unwrap_err().to_string();
            assert!(error.contains(reason), "{words}: {error}");
        }
        assert!(!directory.exists());
    }

    #[test]
    fn a_directory_has_the_last_segment_or_the_whole_path() {
        let authority = Authority::new("a.b").unwrap();
        let texts = ["ns/x/sa/shop", "ns/y/sa/shop", "ns/x/sa/cart", "spiffe://a.b/ns/x/sa/cart"];
        let identities = texts.iter().map(|text| authority.identity(text).unwrap()).collect();
        let directories = directories(&authority, &identities).unwrap();
        let expected = [
            ("cart", "spiffe://a.b/ns/x/sa/cart"),
            ("ns.x.sa.shop", "spiffe://a.b/ns/x/sa/shop"),
            ("ns.y.sa.shop", "spiffe://a.b/ns/y/sa/shop"),
        ];
        assert!(directories.iter().map(|(name, identity)| (&**name, *identity)).eq(expected));
    }

    #[test]
    fn paths_are_quoted_where_yaml_needs_it() {
        for (path, expected) in [("/a/b-1.c", "/a/b-1.c"), ("/a b", "\"/a b\""), ("C:\\x", "\"C:\\\\x\"")] {
            assert_eq!(yaml(Path::new(path)), expected);
        }
    }
}
