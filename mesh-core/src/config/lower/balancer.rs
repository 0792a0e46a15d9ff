use super::super::choice::Balancer;
use super::super::problem::{Draft, Path};
use super::super::schema;
use super::super::shape::{Context, Field, Spanned};
use super::has_no_effect;
use crate::model::{LoadBalancer, Maglev, PeakEwma, RingHash, SlowStart, WeightedRoundRobin};

pub(super) fn load_balancer(section: &schema::BalancerSection, path: Path<'_>, context: &mut Context) -> LoadBalancer {
    const DEFAULT_CHOICE_COUNT: u32 = 2;
    let Some(policy) = section.policy.value() else { return LoadBalancer::default() };
    strangers(section, *policy, path, context);
    match policy {
        Balancer::RoundRobin => LoadBalancer::RoundRobin,
        Balancer::Random => LoadBalancer::Random,
        Balancer::LeastRequest => {
            LoadBalancer::LeastRequest { choice_count: section.choice_count.or(DEFAULT_CHOICE_COUNT) }
        }
        Balancer::PeakEwma => {
            let default = PeakEwma::default();
            LoadBalancer::PeakEwma(PeakEwma {
                decay: section.decay.or(default.decay),
                default_latency: section.default_latency.or(default.default_latency),
            })
        }
        Balancer::WeightedRoundRobin => LoadBalancer::WeightedRoundRobin(weighted_round_robin(section, path, context)),
        Balancer::RingHash => LoadBalancer::RingHash(ring_hash(section, path, context)),
        Balancer::Maglev => {
            LoadBalancer::Maglev(Maglev { table_size: section.table_size.or(Maglev::default().table_size) })
        }
        Balancer::PickFirst => LoadBalancer::PickFirst { shuffle: section.shuffle.or(false) },
        Balancer::Custom => {
            if let (Field::Absent, false) = (&section.name, section.is_doubtful) {
                context.report(section.at, path.key("name"), || {
                    let draft = Draft::new("`custom` needs the `name` of a balancer that the application registered");
                    draft.help("write `{ policy: custom, name: NAME }`")
                });
            }
            section.name.value().cloned().map_or_else(LoadBalancer::default, LoadBalancer::Custom)
        }
    }
}

/// Reports the parameters of other balancers.
fn strangers(section: &schema::BalancerSection, policy: Balancer, path: Path<'_>, context: &mut Context) {
    let schema::BalancerSection {
        at: _,
        is_doubtful: _,
        policy: _,
        choice_count,
        shuffle,
        name,
        max_size,
        min_size,
        table_size,
        decay,
        default_latency,
        out_of_band,
        out_of_band_period,
        blackout_period,
        weight_expiration_period,
        weight_update_period,
        error_utilization_penalty,
        utilization_metrics,
    } = section;
    if policy != Balancer::LeastRequest {
        has_no_effect(choice_count, "choice_count", "without `least_request`", path, context);
    }
    if policy != Balancer::PickFirst {
        has_no_effect(shuffle, "shuffle", "without `pick_first`", path, context);
    }
    if policy != Balancer::Custom {
        has_no_effect(name, "name", "without `custom`", path, context);
    }
    if policy != Balancer::RingHash {
        const WHY: &str = "without `ring_hash`";
        has_no_effect(max_size, "max_size", WHY, path, context);
        has_no_effect(min_size, "min_size", WHY, path, context);
    }
    if policy != Balancer::Maglev {
        has_no_effect(table_size, "table_size", "without `maglev`", path, context);
    }
    if policy != Balancer::PeakEwma {
        const WHY: &str = "without `peak_ewma`";
        has_no_effect(decay, "decay", WHY, path, context);
        has_no_effect(default_latency, "default_latency", WHY, path, context);
    }
    if policy != Balancer::WeightedRoundRobin {
        const WHY: &str = "without `weighted_round_robin`";
        has_no_effect(out_of_band, "out_of_band", WHY, path, context);
        has_no_effect(out_of_band_period, "out_of_band_period", WHY, path, context);
        has_no_effect(blackout_period, "blackout_period", WHY, path, context);
        has_no_effect(weight_expiration_period, "weight_expiration_period", WHY, path, context);
        has_no_effect(weight_update_period, "weight_update_period", WHY, path, context);
        has_no_effect(error_utilization_penalty, "error_utilization_penalty", WHY, path, context);
        has_no_effect(utilization_metrics, "utilization_metrics", WHY, path, context);
    }
}

fn weighted_round_robin(
    section: &schema::BalancerSection,
    path: Path<'_>,
    context: &mut Context,
) -> WeightedRoundRobin {
    let default = WeightedRoundRobin::default();
    let out_of_band = section.out_of_band.or(default.out_of_band);
    if !out_of_band && !section.out_of_band.is_invalid() {
        let period = &section.out_of_band_period;
        has_no_effect(period, "out_of_band_period", "without `out_of_band: true`", path, context);
    }
    let penalty = section.error_utilization_penalty.value();
    let metrics = section.utilization_metrics.value().into_iter().flatten();
    WeightedRoundRobin {
        out_of_band,
        out_of_band_period: section.out_of_band_period.or(default.out_of_band_period),
        blackout_period: section.blackout_period.or(default.blackout_period),
        weight_expiration_period: section.weight_expiration_period.or(default.weight_expiration_period),
        weight_update_period: section.weight_update_period.or(default.weight_update_period),
        error_utilization_penalty: penalty
            .map_or(default.error_utilization_penalty, |thousandths| f64::from(*thousandths) / 1000.0),
        utilization_metrics: metrics.filter_map(Field::value).cloned().collect(),
    }
}

fn ring_hash(section: &schema::BalancerSection, path: Path<'_>, context: &mut Context) -> RingHash {
    let default = RingHash::default();
    let max_size = section.max_size.or(default.max_size);
    let min_size = section.min_size.or(default.min_size.min(max_size));
    if let Some(Spanned { value: min, at }) = section.min_size.given()
        && *min > max_size
    {
        context.report(*at, path.key("min_size"), || {
            let draft = match section.max_size {
                Field::Absent => {
                    Draft::new(format!("{min} is more than `max_size`, which is {max_size} where it is left out"))
                }
                _ => Draft::new(format!("{min} is more than `max_size`: write at most {max_size}")),
            };
            draft.about(&min.to_string()).help("or raise `max_size`")
        });
    }
    RingHash { min_size, max_size }
}

pub(super) fn slow_start(section: &schema::SlowStart) -> Option<SlowStart> {
    let mut slow_start = SlowStart::new(*section.window.value()?);
    if let Some(thousandths) = section.aggression.value() {
        slow_start.aggression = f64::from(*thousandths) / 1000.0;
    }
    if let Some(scaled) = section.min_weight_percent.value() {
        slow_start.min_weight_percent = f64::from(*scaled) / 10_000.0;
    }
    Some(slow_start)
}
