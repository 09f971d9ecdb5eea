//! Which hook is asked for, as people write it.

use std::{fmt, str::FromStr};

use crate::{Choice, Error, Hook};

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "best" => Ok(Self::Best),
            "tcx" => Ok(Self::Only(Hook::Tcx)),
            "clsact" => Ok(Self::Only(Hook::Clsact)),
            _ => Err(Error::invalid(
                format!("hook {text:?}"),
                "there are tcx, clsact and best",
            )),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best => f.write_str("best"),
            Self::Only(hook) => hook.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for choice in [Choice::Best, Choice::Only(Hook::Tcx), Choice::Only(Hook::Clsact)] {
            assert_eq!(choice.to_string().parse::<Choice>().unwrap(), choice);
        }
        assert!("".parse::<Choice>().is_err() && "TCX".parse::<Choice>().is_err());
    }
}
