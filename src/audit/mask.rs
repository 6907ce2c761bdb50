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

    /// Arguments: `--token=x`, `--token x`; anywhere in a text `TOKEN=x`, `Token: x`, and what follows `Bearer` or `Basic`.
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
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut any = false;
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
                any = true;
            }
        }
        out.push_str(rest);
        for scheme in ["Bearer ", "bearer ", "Basic "] {
            let mut parts = out.split(scheme);
            let mut masked = parts.next().unwrap_or_default().to_owned();
            for value in parts {
                masked.push_str(scheme);
                if !value.is_empty() && value != MASK {
                    masked.push_str(MASK);
                    masked.push_str(behind(value));
                    any = true;
                }
            }
            out = masked;
        }
        (out, any)
    }
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
}
