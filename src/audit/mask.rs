//! Secrets, by the names that people give them.

/// What stands for a masked value.
const MASK: &str = "***";

/// Names whose values are not written.
#[derive(Debug, Clone, Default)]
pub(super) struct Masks(Vec<String>);

impl Masks {
    pub(super) fn new(patterns: &[String]) -> Self {
        Self(patterns.iter().map(|pattern| plain(pattern)).collect())
    }

    /// Whether values of this name are masked.
    pub(super) fn names(&self, name: &str) -> bool {
        let name = plain(name.trim_start_matches('-'));
        !name.is_empty() && self.0.iter().any(|pattern| matches(pattern, &name))
    }

    /// The value, or what stands for it; whether it was masked.
    pub(super) fn value(&self, name: &str, value: &str) -> (String, bool) {
        if self.names(name) { (MASK.to_owned(), true) } else { self.text(value) }
    }

    /// Arguments: `--token=x`, `--token x`; anywhere in a text `TOKEN=x`, `Token: x`, what follows `Bearer` or `Basic`, and
    /// `scheme://user:x@host`.
    pub(super) fn argv(&self, argv: &[String]) -> (Vec<String>, bool) {
        let mut any = false;
        let mut is_named = false;
        let argv = argv.iter().map(|argument| {
            let (text, masked) = if is_named { (MASK.to_owned(), true) } else { self.text(argument) };
            is_named =
                !is_named && argument.starts_with('-') && !argument.contains('=') && self.names(argument);
            any |= masked;
            text
        });
        (argv.collect(), any)
    }

    fn text(&self, text: &str) -> (String, bool) {
        let masked = passwords(&bearers(&self.named(text)));
        let any = masked != text;
        (masked, any)
    }

    /// `TOKEN=x` and `Token: x`.
    fn named(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(['=', ':']) {
            let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
            let name = before.rsplit(|c: char| !is_part(c)).next().unwrap_or_default();
            let is_header = rest.as_bytes().get(before.len()) == Some(&b':');
            out.push_str(before);
            out.push(if is_header { ':' } else { '=' });
            rest = after;
            let value = if is_header { after.trim_start_matches([' ', '\t']) } else { after };
            let is_value = !value.is_empty() && (!is_header || value.len() < after.len());
            if is_value && self.names(name) {
                out.push_str(if is_header { " " } else { "" });
                out.push_str(MASK);
                rest = if is_header { behind_header(value) } else { behind(value) };
            }
        }
        out.push_str(rest);
        out
    }
}

/// What follows `Bearer` or `Basic`, however they are written, but for words of a sentence.
fn bearers(text: &str) -> String {
    let mut out = text.to_owned();
    for scheme in ["Bearer ", "bearer ", "BEARER ", "Basic ", "BASIC ", ": basic "] {
        let mut parts = out.split(scheme);
        let mut masked = parts.next().unwrap_or_default().to_owned();
        for value in parts {
            masked.push_str(scheme);
            if !value.is_empty() {
                masked.push_str(MASK);
                masked.push_str(behind(value));
            }
        }
        out = masked;
    }
    out
}

/// The password of `scheme://user:password@host` (RFC 3986 section 3.2): what stands between the first colon and the last `@`
/// of the authority, which ends at a slash, question mark or number sign; here at a blank or quote too. Before HTTP, where a
/// user alone is a token more often than a name, all of it.
fn passwords(text: &str) -> String {
    const SCHEME_END: &str = "://";
    let mut parts = text.split(SCHEME_END);
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_http = ["http", "https"].iter().any(|scheme| masked.ends_with(scheme));
        masked.push_str(SCHEME_END);
        let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'');
        let (authority, rest) = part.split_at(part.find(ends).unwrap_or(part.len()));
        let login = authority.rsplit_once('@').map(|(login, host)| (login, login.split_once(':'), host));
        match login {
            Some((_, Some((user, password)), host)) if !password.is_empty() => {
                masked.extend([user, ":", MASK, "@", host]);
            }
            Some((token, None, host)) if is_http && !token.is_empty() => masked.extend([MASK, "@", host]),
            Some(_) | None => masked.push_str(authority),
        }
        masked.push_str(rest);
    }
    masked
}

/// What comes after the value of a header that begins here: to the quote around it, or to the end of the line.
fn behind_header(value: &str) -> &str {
    value.find(['\'', '"', '\n']).and_then(|end| value.get(end..)).unwrap_or_default()
}

/// What comes after the value that begins here: to its closing quote, or to the next blank or separator.
fn behind(value: &str) -> &str {
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let end = match quote {
        Some(quote) => value.get(1..).and_then(|v| v.find(quote)).map(|at| at + 2),
        None => value.find(|c: char| c.is_whitespace() || matches!(c, '&' | ';' | '|' | '"' | '\'' | ')')),
    };
    end.and_then(|end| value.get(end..)).unwrap_or_default()
}

fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

fn matches(pattern: &str, name: &str) -> bool {
    let middle = pattern.trim_matches('*');
    match (pattern.starts_with('*'), pattern.ends_with('*')) {
        (true, true) => name.contains(middle),
        (true, false) => name.ends_with(middle),
        (false, true) => name.starts_with(middle),
        (false, false) => name == middle,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_however_they_are_spelt() {
        let masks = Masks::new(&["*token*".to_owned(), "*passw*".to_owned(), "api_key".to_owned()]);
        let argv = |argv: &[&str]| masks.argv(&argv.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
        let table: [(&[&str], &[&str]); 13] = [
            (&["x", "--password=abc", "y"], &["x", "--password=***", "y"]),
            (&["x", "--password", "abc", "y"], &["x", "--password", "***", "y"]),
            (&["x", "--API-KEY=abc"], &["x", "--API-KEY=***"]),
            (
                &["sh", "-c", "GH_TOKEN=abc curl x; TOKEN='a b' y"],
                &["sh", "-c", "GH_TOKEN=*** curl x; TOKEN=*** y"],
            ),
            (&["curl", "-H", "Authorization: Bearer abc.def"], &["curl", "-H", "Authorization: Bearer ***"]),
            (
                &["sh", "-c", "x 'a: Bearer b' 'c: bearer d'"],
                &["sh", "-c", "x 'a: Bearer ***' 'c: bearer ***'"],
            ),
            (&["curl", "-H", "X-Token: a b"], &["curl", "-H", "X-Token: ***"]),
            (&["sh", "-c", "curl -H 'Api-Key:  a b' u"], &["sh", "-c", "curl -H 'Api-Key: ***' u"]),
            (&["curl", "-H", "X-Token:"], &["curl", "-H", "X-Token:"]),
            (&["scp", "token:file", "x: y"], &["scp", "token:file", "x: y"]),
            (&["curl", "http://h/?token=abc&x=1"], &["curl", "http://h/?token=***&x=1"]),
            (&["x", "--password=\"open"], &["x", "--password=***"]),
            (&["ls", "-l", "a=b"], &["ls", "-l", "a=b"]),
        ];
        for (given, wanted) in table {
            let (masked, any) = argv(given);
            assert_eq!(masked, wanted);
            assert_eq!(any, given != wanted, "{given:?}");
        }
        assert_eq!(masks.value("DB_PASSWORD", "x"), ("***".to_owned(), true));
        assert_eq!(masks.value("HOME", "/root"), ("/root".to_owned(), false));
    }

    #[test]
    fn the_password_of_a_url_is_masked_and_what_only_looks_like_one_is_not() {
        let masks = Masks::default();
        let table = [
            ("https://ada:abc@example.com/x", "https://ada:***@example.com/x"),
            ("--proxy=http://ada:abc@proxy:3128", "--proxy=http://ada:***@proxy:3128"),
            ("redis://:abc@db:6379/0", "redis://:***@db:6379/0"),
            ("https://ada:a:b@c@host", "https://ada:***@host"),
            ("https://ada:%40%3A@host?x#y", "https://ada:***@host?x#y"),
            ("curl 'https://a:b@c/' http://d:e@f; x", "curl 'https://a:***@c/' http://d:***@f; x"),
            ("git clone https://ghp_abc@github.com/x", "git clone https://***@github.com/x"),
            ("X: BEARER abc", "X: BEARER ***"),
            ("Authorization: basic abc", "Authorization: basic ***"),
            ("echo basic usage", "echo basic usage"),
            ("jdbc:postgresql://ada:abc@db/x", "jdbc:postgresql://ada:***@db/x"),
            ("git@host:path", "git@host:path"),
            ("ssh://git@host:22/path", "ssh://git@host:22/path"),
            ("http://host:80/a@b", "http://host:80/a@b"),
            ("http://host:80?to=a@b", "http://host:80?to=a@b"),
            ("http://host:80#a@b", "http://host:80#a@b"),
            ("http://[::1]:80/a:b@c", "http://[::1]:80/a:b@c"),
            ("http://host:80 me@example.com", "http://host:80 me@example.com"),
            ("http://ada:@host", "http://ada:@host"),
            ("10:30 mail a:b@c", "10:30 mail a:b@c"),
            ("://", "://"),
        ];
        for (given, wanted) in table {
            assert_eq!(masks.text(given), (wanted.to_owned(), given != wanted));
        }
    }
}
