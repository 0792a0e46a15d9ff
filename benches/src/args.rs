//! The arguments of the benchmark binaries.

use crate::Result;

/// `cargo bench -p benches --bench NAME -- [--pairs N] [--rpcs N] [--only TEXT] [--json]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Args {
    /// How many pairs of runs, or rounds, count. Default: see [`Args::pairs_or`].
    pub pairs: Option<usize>,
    /// How many RPCs a run has. Default: what takes about 1.5 s.
    pub rpcs: Option<u64>,
    /// Only comparisons whose title holds this text.
    pub only: Option<String>,
    /// Whether the result is printed as one JSON object in place of tables.
    pub json: bool,
}

impl Args {
    /// Reads the arguments of this process.
    ///
    /// # Errors
    /// If there is one that is not known, lacks its value, or has a value that is not a positive number.
    pub fn from_env() -> Result<Self> {
        Self::parse(std::env::args().skip(1))
    }

    /// Reads `words`, the arguments without the program's name.
    ///
    /// # Errors
    /// As [`Args::from_env`].
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut args = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--pairs" => args.pairs = Some(usize::try_from(positive(&word, &value()?)?)?),
                "--rpcs" => args.rpcs = Some(positive(&word, &value()?)?),
                "--only" => args.only = Some(value()?),
                "--json" => args.json = true,
                // cargo says so to every benchmark it runs.
                "--bench" => {}
                _ => return Err(format!("unknown argument {word}; there are --pairs, --rpcs, --only, --json").into()),
            }
        }
        Ok(args)
    }

    /// How many pairs or rounds count where `default` do if nobody says otherwise.
    pub fn pairs_or(&self, default: usize) -> usize {
        self.pairs.unwrap_or(default)
    }

    /// Whether a comparison of this title was asked for.
    pub fn wants(&self, title: &str) -> bool {
        self.only.as_ref().is_none_or(|only| title.contains(only.as_str()))
    }
}

fn positive(word: &str, value: &str) -> Result<u64> {
    match value.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err(format!("{word} needs a positive number, not {value:?}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn reads_every_argument() {
        let expected = Args { pairs: Some(9), rpcs: Some(500), only: Some("xds".to_owned()), json: true };
        assert_eq!(parse("--pairs 9 --rpcs 500 --only xds --json --bench").unwrap(), expected);
        assert_eq!(parse("").unwrap(), Args::default());
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for line in ["--pair 9", "--pairs", "--pairs 0", "--rpcs -1", "--rpcs many"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
