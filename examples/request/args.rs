use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Uri};
use mesh_tonic::core::config::parse_duration;

pub(crate) const USAGE: &str = "\
usage: request [OPTIONS] URL

Sends HTTP requests through the mesh that MESH_CONFIG configures, and tells what became of them. The host of URL is a
service of the configuration: http://greeter/path.

  --count N          how many requests (default 1)
  --concurrency C    how many of them at a time (default 1)
  --header K:V       a header; may be repeated
  --method M         the method (default GET, or POST with --data)
  --data S           the body
  --timeout D        bound of each request, as in 500ms, 2s, 1m30s; 0s is none (default: none but the route's)
  --json             print one JSON object

exit code: 0 if every request got an answer, whatever its status; 1 if one did not; 2 if the arguments were bad";

/// What the arguments ask for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Args {
    pub(crate) count: usize,
    pub(crate) concurrency: usize,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) method: Method,
    pub(crate) data: String,
    pub(crate) timeout: Option<Duration>,
    pub(crate) json: bool,
    pub(crate) url: Uri,
}

/// Reads `words`, the arguments without the program's name. `None` if help is wanted.
pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Option<Args>, String> {
    let (mut count, mut concurrency, mut headers, mut json) = (1, 1, Vec::new(), false);
    let (mut method, mut data, mut timeout, mut url) = (None, None, None, None);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        // `--count=3` is `--count 3`.
        let (flag, mut inline) = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        let mut value = || inline.take().or_else(|| words.next()).ok_or_else(|| format!("{flag} needs a value"));
        match flag {
            "--help" | "-h" => return Ok(None),
            "--count" => count = positive(flag, &value()?)?,
            "--concurrency" => concurrency = positive(flag, &value()?)?,
            "--header" => headers.push(header(&value()?)?),
            "--method" => {
                let value = value()?;
                method = Some(value.parse().map_err(|_| format!("--method: {value:?} is not an HTTP method"))?);
            }
            "--data" => data = Some(value()?),
            "--timeout" => timeout = duration(&value()?)?,
            "--json" => json = true,
            _ if flag.starts_with('-') => return Err(format!("unknown argument {flag}")),
            _ if url.is_some() => return Err(format!("one URL is enough; {word:?} is another")),
            _ => url = Some(absolute(&word)?),
        }
        if inline.is_some() {
            return Err(format!("{flag} takes no value"));
        }
    }
    let method = method.unwrap_or(if data.is_some() { Method::POST } else { Method::GET });
    let data = data.unwrap_or_default();
    let url = url.ok_or("the URL is missing")?;
    Ok(Some(Args { count, concurrency, headers, method, data, timeout, json, url }))
}

fn positive(flag: &str, value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err(format!("{flag} needs a positive number, not {value:?}")),
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("--header: {text:?} is not NAME:VALUE"))?;
    let name = name.trim().parse().map_err(|_| format!("--header: {name:?} is not a header name"))?;
    let value = HeaderValue::from_str(value.trim());
    Ok((name, value.map_err(|_| format!("--header: the value in {text:?} holds a control character"))?))
}

/// A duration as the configuration writes it (GEP-2257); `None` for zero.
fn duration(text: &str) -> Result<Option<Duration>, String> {
    let bad =
        || format!("--timeout: {text:?} is not a duration; write 1 to 4 numbers with units, as in 1m30s or 500ms");
    Ok(Some(parse_duration(text).ok_or_else(bad)?).filter(|duration| !duration.is_zero()))
}

fn absolute(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{text:?} is not a URL: {error}"))?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok(uri),
        _ => Err(format!("{text:?} is not a whole URL; write http://SERVICE/PATH")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Option<Args>, String> {
        parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn reads_every_argument() {
        let words = "--count 20 --concurrency=4 --header x-a:1 --header X-B:2 --method PUT --timeout 1m30s --json";
        let words: Vec<_> = words.split(' ').chain(["--data", "a=b c", "http://greeter/x?y=z"]).collect();
        let expected = Args {
            count: 20,
            concurrency: 4,
            headers: vec![
                (HeaderName::from_static("x-a"), HeaderValue::from_static("1")),
                (HeaderName::from_static("x-b"), HeaderValue::from_static("2")),
            ],
            method: Method::PUT,
            data: "a=b c".to_owned(),
            timeout: Some(Duration::from_secs(90)),
            json: true,
            url: Uri::from_static("http://greeter/x?y=z"),
        };
        assert_eq!(read(&words), Ok(Some(expected)));
        assert_eq!(read(&["--json", "-h"]), Ok(None));
    }

    #[test]
    fn has_defaults() {
        let args = read(&["http://greeter/"]).unwrap().unwrap();
        assert_eq!((args.count, args.concurrency, args.method), (1, 1, Method::GET));
        assert_eq!((args.data.as_str(), args.timeout, args.json), ("", None, false));
        let args = read(&["--data", "x", "http://greeter/"]).unwrap().unwrap();
        assert_eq!(args.method, Method::POST);
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for words in [
            &[][..],
            &["--count", "5"],
            &["greeter"],
            &["/path"],
            &["ftp://greeter/"],
            &["http://a/", "http://b/"],
            &["--count", "0", "http://a/"],
            &["--count", "-1", "http://a/"],
            &["--count", "many", "http://a/"],
            &["--concurrency", "0", "http://a/"],
            &["http://a/", "--count"],
            &["--header", "novalue", "http://a/"],
            &["--header", "a b:c", "http://a/"],
            &["--header", "a:b\nc", "http://a/"],
            &["--method", "G T", "http://a/"],
            &["--timeout", "5", "http://a/"],
            &["--json=yes", "http://a/"],
            &["--verbose", "http://a/"],
            &["-n", "5", "http://a/"],
        ] {
            assert!(read(words).is_err_and(|text| !text.is_empty()), "{words:?}");
        }
    }

    #[test]
    fn durations_are_those_of_the_configuration() {
        for (text, millis) in
            [("500ms", 500), ("10s", 10_000), ("1h30m", 5_400_000), ("1s1s", 2000), ("99999h", 359_996_400_000)]
        {
            assert_eq!(duration(text), Ok(Some(Duration::from_millis(millis))), "{text}");
        }
        assert_eq!(duration("0s"), Ok(None));
        for text in ["", "5", "s", "1.5s", "-1s", "+1s", "1S", "1us", "1s ", "1s1s1s1s1s", "100000s"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}
