//! `[[rate]]` and `[[delivery]]`: how fast messages may come in and go out.

use std::time::Duration;

use super::file::{DeliverySettings, RateSettings};
use super::load::Layers;
use super::values::Named;
use super::{ConfigError, ListenerConfig};
use crate::flow::bucket::Rate;
use crate::flow::{OnLimit, RateRule, Scope};

/// What a client may publish at once after silence, if its rule does not say.
const RATE_BURST: Duration = Duration::from_secs(1);

/// What is delivered at once after silence: enough to make up for a turn that came late.
const DELIVERY_BURST: Duration = Duration::from_millis(50);

/// Whose publishes a rule is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct RatePer(Scope);

/// Whose deliveries a rule is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeliveryPer(Scope);

impl Named for RatePer {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("client", RatePer(Scope::Client)),
        ("user", RatePer(Scope::User)),
        ("listener", RatePer(Scope::Listener)),
    ];
}

impl Named for DeliveryPer {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("group", DeliveryPer(Scope::Group)),
        ("user", DeliveryPer(Scope::User)),
        ("client", DeliveryPer(Scope::Client)),
    ];
}

impl Named for OnLimit {
    const NAMES: &'static [(&'static str, Self)] = &[("pause", OnLimit::Pause), ("reject", OnLimit::Reject)];
}

impl Layers {
    pub(super) fn rates(
        &self,
        settings: Vec<RateSettings>,
        listeners: &[ListenerConfig],
    ) -> Result<Vec<RateRule>, ConfigError> {
        let mut rules = Vec::with_capacity(settings.len());
        for (index, settings) in settings.into_iter().enumerate() {
            let path = format!("rate[{index}]");
            let (Some(per), Some(name)) = (settings.per, settings.name) else {
                return Err(self.error(&path, "a rule needs `per` and `name`: \"*\" is every one"));
            };
            let (scope, name) = (per.0.0, name.0);
            let bound = |listener: &ListenerConfig| listener.bind.to_string() == name;
            if scope == Scope::Listener && !name.ends_with('*') && !listeners.iter().any(bound) {
                let reason = "no [[listener]] has this `bind`";
                return Err(self.error(&format!("{path}.name"), reason));
            }
            let rate = Rate {
                messages: settings.max_messages_rate.map_or(0, |rate| rate.0),
                bytes: settings.max_bytes_rate.map_or(0, |rate| rate.0),
                burst: settings.burst.map_or(RATE_BURST, |burst| burst.0),
            };
            let on_limit = settings.on_limit.map_or(OnLimit::default(), |on_limit| on_limit.0);
            self.add_rate(&path, RateRule { scope, name, rate, on_limit }, &mut rules)?;
        }
        Ok(rules)
    }

    pub(super) fn deliveries(&self, settings: Vec<DeliverySettings>) -> Result<Vec<RateRule>, ConfigError> {
        let mut rules = Vec::with_capacity(settings.len());
        for (index, settings) in settings.into_iter().enumerate() {
            let path = format!("delivery[{index}]");
            let (Some(per), Some(name)) = (settings.per, settings.name) else {
                return Err(self.error(&path, "a rule needs `per` and `name`: \"*\" is every one"));
            };
            let rate = Rate {
                messages: settings.max_messages_rate.map_or(0, |rate| rate.0),
                bytes: settings.max_bytes_rate.map_or(0, |rate| rate.0),
                burst: settings.burst.map_or(DELIVERY_BURST, |burst| burst.0),
            };
            let rule = RateRule { scope: per.0.0, name: name.0, rate, on_limit: OnLimit::Pause };
            self.add_rate(&path, rule, &mut rules)?;
        }
        Ok(rules)
    }

    fn add_rate(&self, path: &str, rule: RateRule, rules: &mut Vec<RateRule>) -> Result<(), ConfigError> {
        if (rule.rate.messages, rule.rate.bytes) == (0, 0) {
            let reason = "bounds nothing: write `max_messages_rate` or `max_bytes_rate`";
            return Err(self.error(path, reason));
        }
        let name = &rule.name;
        if name.strip_suffix('*').unwrap_or(name).contains('*') {
            let reason = "`*` stands for every ending, and not for what is within a name";
            return Err(self.error(&format!("{path}.name"), reason));
        }
        if rule.scope == Scope::Group && name.contains(['/', '+', '#']) {
            let reason = "expected the name of a share group alone, without $share/ and filter";
            return Err(self.error(&format!("{path}.name"), reason));
        }
        if rules.iter().any(|other| (other.scope, &other.name) == (rule.scope, &rule.name)) {
            return Err(self.error(&format!("{path}.name"), "there is a rule for this name already"));
        }
        rules.push(rule);
        Ok(())
    }
}
