//! The denials of this policy: each says what was refused, why, and what to do next.

use execgate_policy_sdk::prelude::*;

use crate::options::Objection;
use crate::pattern::last_part;

/// No rule allows it; `named` says whether one names its program.
pub(crate) fn no_rule(request: &CommandRequest, named: bool) -> Denial {
    let executable = &request.executable;
    let program = &executable.requested;
    let message = match (&executable.found, &executable.interpreter) {
        (None, _) => format!(
            "no rule allows {program:?}; rules by name hold only for what is found on the server's PATH"
        ),
        (Some(_), Some(interpreter)) => format!(
            "no rule allows {program:?}, a script that {:?} runs: both must be allowed",
            last_part(&interpreter.canonical)
        ),
        (Some(_), None) if named => format!("no rule allows {program:?} with these arguments"),
        (Some(_), None) => format!("no rule names {program:?}"),
    };
    Denial::new("default", "no_rule", message)
        .remedy(format!("use an allowed program, or ask the operator for a rule that allows {program:?}"))
}

/// An argument is not allowed.
pub(crate) fn argument(rule: &str, program: &str, objection: &Objection<'_>) -> Denial {
    Denial::new(rule, "argument_not_allowed", format!("{program}: {}", objection.what()))
        .remedy(objection.remedy())
}

/// A variable is not allowed.
pub(crate) fn variable(rule: &str, program: &str, name: &str) -> Denial {
    let message = format!("{program}: the variable {name:?} may change what the program does");
    Denial::new(rule, "environment_not_allowed", message)
        .remedy("leave it out, or have the operator name it in env_allow of command-rules")
}
