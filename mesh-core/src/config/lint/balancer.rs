use super::super::choice::Balancer;
use super::super::problem::Path;
use super::super::schema::{self, BalancerSection};
use super::super::shape::Spanned;
use super::backend::all_endpoints;
use super::{Lint, is_policy};
use crate::model::{Maglev, RingHash};

impl Lint<'_> {
    pub(super) fn balancer_of(&mut self, section: &schema::Backend, path: Path<'_>) {
        let Some(balancer) = self.balancer(section) else { return };
        if is_policy(balancer, Balancer::PickFirst)
            && !balancer.shuffle.or(false)
            && all_endpoints(section).is_some_and(|endpoints| endpoints.count() > 2)
        {
            let message = "every client uses the first endpoint that it can connect to, and the others idle".to_owned();
            let help = "set `shuffle: true`, or use another balancer";
            self.warn("pick-first-of-many", balancer.at, path.key("load_balancer"), message, help);
        }
        if let Some(Spanned { at, .. }) = section.health_check.given()
            && is_policy(balancer, Balancer::PickFirst)
        {
            let message = "`pick_first` leaves its endpoint when the connection is lost, and asks nobody".to_owned();
            let help = "use another balancer, or remove it";
            self.warn("unused-health-check", *at, path.key("health_check"), message, help);
        }
        let weighs = balancer.policy.value().is_none_or(|policy| {
            !matches!(policy, Balancer::PickFirst | Balancer::RingHash | Balancer::Maglev | Balancer::Custom)
        });
        if let Some(Spanned { at, .. }) = section.slow_start.given()
            && !weighs
        {
            let message =
                "the balancer of this backend does not choose by share, and starts no endpoint slowly".to_owned();
            let help = "use another balancer, or remove it";
            self.warn("unused-slow-start", *at, path.key("slow_start"), message, help);
        }
        self.unused_weight(section, balancer, path);
        self.small_table(section, balancer, path);
    }

    fn unused_weight(&mut self, section: &schema::Backend, balancer: &BalancerSection, path: Path<'_>) {
        let message = match balancer.policy.value() {
            Some(Balancer::PickFirst) => "`pick_first` goes by the order of its endpoints, and ignores their weights",
            Some(Balancer::WeightedRoundRobin) => {
                "`weighted_round_robin` goes by the weights that endpoints report, and ignores those of the file"
            }
            _ => return,
        };
        // A weight of 0 holds everywhere.
        let at = all_endpoints(section)
            .and_then(|mut all| all.find_map(|endpoint| endpoint.weight.given().filter(|weight| weight.value > 1)))
            .map(|weight| weight.at);
        if let Some(at) = at {
            let list = if section.localities.is_written() { "localities" } else { "endpoints" };
            let help = "remove the weights, or use another balancer";
            self.warn("unused-weight", at, path.key(list), message.to_owned(), help);
        }
    }

    fn small_table(&mut self, section: &schema::Backend, balancer: &BalancerSection, path: Path<'_>) {
        let (field, name, default) = match balancer.policy.value() {
            Some(Balancer::RingHash) => (&balancer.max_size, "max_size", RingHash::default().max_size),
            Some(Balancer::Maglev) => (&balancer.table_size, "table_size", Maglev::default().table_size),
            _ => return,
        };
        let size = field.or(default);
        let listed = all_endpoints(section).map_or(0, Iterator::count);
        if usize::try_from(size).is_ok_and(|size| size < listed) {
            let at = field.given().map_or(balancer.at, |given| given.at);
            let message = format!("{listed} endpoints share {size} entries: some of them get no request");
            let help = "make it a hundred times the endpoints";
            self.warn("small-hash-table", at, path.key("load_balancer").key(name), message, help);
        }
    }
}
