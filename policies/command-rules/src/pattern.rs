//! Patterns: `*` stands for any part of a text, `**` for any further arguments. Nothing else is special.

/// Whether the whole text is like the pattern.
pub(crate) fn is_like(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether the text is like one of the patterns.
pub(crate) fn is_like_any(text: &str, patterns: &[String]) -> bool {
    patterns.iter().any(|pattern| is_like(text, pattern))
}

/// Whether the arguments are like the patterns, one by one.
pub(crate) fn are_like(arguments: &[String], patterns: &[String]) -> bool {
    match (patterns.split_first(), arguments.split_first()) {
        (None, None) => true,
        (Some((any, [])), _) if any == "**" => true,
        (Some((pattern, patterns)), Some((argument, arguments))) => {
            is_like(argument, pattern) && are_like(arguments, patterns)
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}

/// The name at the end of a path.
pub(crate) fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether the path is the root or lies below it; both are absolute and without symlinks.
pub(crate) fn is_below(path: &str, root: &str) -> bool {
    let root = root.trim_end_matches('/');
    path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_for_the_whole_text() {
        for (text, pattern) in [("web-1", "web-*"), ("a", "a"), ("", "*"), ("abcabc", "a*b*c"), ("aa", "a*a")]
        {
            assert!(is_like(text, pattern), "{text} {pattern}");
        }
        for (text, pattern) in [("xweb-1", "web-*"), ("ab", "a"), ("a", "a*a"), ("abx", "*b"), ("", "a*")] {
            assert!(!is_like(text, pattern), "{text} {pattern}");
        }
    }

    #[test]
    fn arguments_match_one_by_one() {
        let list = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert!(are_like(&list(&["restart", "web-1"]), &list(&["restart", "web-*"])));
        assert!(!are_like(&list(&["restart", "web-1", "--now"]), &list(&["restart", "web-*"])));
        assert!(are_like(&list(&["log", "-p", "x"]), &list(&["log", "**"])));
        assert!(are_like(&[], &list(&["**"])));
        assert!(!are_like(&[], &list(&["*"])));
    }

    #[test]
    fn a_directory_is_not_below_one_that_begins_alike() {
        assert!(is_below("/srv/a", "/srv/a/"));
        assert!(is_below("/srv/a/b", "/srv/a"));
        assert!(!is_below("/srv/ab", "/srv/a"));
        assert!(is_below("/etc", "/"));
    }
}
