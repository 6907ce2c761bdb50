//! Two tenants to be kept apart: "a" with the token "aa", "b" with the token "bb".

/// The shipped policies as most tests want them.
pub const POLICIES: &str = "
[policy.rules]
module = \"builtin:command-rules\"
settings = { preset = \"developer\" }
[policy.quota]
module = \"builtin:session-quota\"
";

/// Their credentials; each is in these groups.
pub fn in_groups(a: &[&str], b: &[&str]) -> String {
    format!(
        "
[auth.token.a]
sha256 = \"961b6dd3ede3cb8ecbaacbd68de040cd78eb2ed5889130cceb4c49268ea4d506\"
tenant = \"a\"
subject = \"x\"
groups = {a:?}
[auth.token.b]
sha256 = \"3b64db95cb55c763391c707108489ae18b4112d783300de38e033b4c98c3deaf\"
tenant = \"b\"
subject = \"x\"
groups = {b:?}
"
    )
}

/// Their credentials and the shipped policies.
pub fn two() -> String {
    in_groups(&[], &[]) + POLICIES
}
