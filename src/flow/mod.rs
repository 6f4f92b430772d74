//! How fast messages may come in and go out: the rules an operator writes, the token buckets that keep them, and who has
//! which. Time is always given; nothing here reads a clock, sends a packet or knows a session.

pub mod bucket;
pub mod registry;

use bucket::Rate;

/// Whose messages a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Each client identifier by itself.
    Client,
    /// All clients of one user together.
    User,
    /// All clients of one listener together.
    Listener,
    /// The members of one share group together.
    Group,
}

/// What happens to a PUBLISH that comes too early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnLimit {
    /// Its client is not read until it is time: TCP holds it back, and nothing is lost.
    #[default]
    Pause,
    /// It is refused: QoS 1 and 2 with a reason code, or before MQTT 5 with the end of the connection; at QoS 0 it is
    /// dropped and counted.
    Reject,
}

/// A rate and whom it holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateRule {
    /// Whose messages.
    pub scope: Scope,
    /// Which of them: the name itself, all that begin with what stands before a `*` at the end, or all for `*` alone.
    /// Each name that matches has tokens of its own.
    pub name: String,
    /// How fast.
    pub rate: Rate,
    /// What happens beyond; of no meaning for deliveries, which always wait.
    pub on_limit: OnLimit,
}

impl RateRule {
    /// The rule that holds for `name`: its own, else that with the longest beginning of it.
    pub fn find<'a>(rules: &'a [RateRule], scope: Scope, name: &str) -> Option<&'a RateRule> {
        let rank = |rule: &RateRule| match rule.name.strip_suffix('*') {
            _ if rule.name == name => Some(usize::MAX),
            Some(beginning) => name.starts_with(beginning).then_some(beginning.len()),
            None => None,
        };
        let of_scope = rules.iter().filter(|rule| rule.scope == scope);
        of_scope
            .filter_map(|rule| Some((rank(rule)?, rule)))
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, rule)| rule)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_rule_that_says_most_of_a_name_holds_for_it() {
        let rule = |scope, name: &str, messages| RateRule {
            scope,
            name: name.to_owned(),
            rate: Rate { messages, bytes: 0, burst: Duration::ZERO },
            on_limit: OnLimit::Pause,
        };
        let rules = [
            rule(Scope::User, "*", 9),
            rule(Scope::Client, "*", 1),
            rule(Scope::Client, "meter-*", 2),
            rule(Scope::Client, "meter-7", 3),
        ];
        let found = |scope, name| RateRule::find(&rules, scope, name).map(|rule| rule.rate.messages);
        assert_eq!(found(Scope::Client, "x"), Some(1));
        assert_eq!(found(Scope::Client, "meter-"), Some(2));
        assert_eq!(found(Scope::Client, "meter-70"), Some(2));
        assert_eq!(found(Scope::Client, "meter-7"), Some(3));
        assert_eq!(found(Scope::User, "meter-7"), Some(9));
        assert_eq!(found(Scope::Group, "meter-7"), None);
        assert_eq!(RateRule::find(&rules[3..], Scope::Client, "meter-70"), None);
    }
}
