//! An identity in files, followed while they change.
//!
//! The files are looked at by path, so that a rename over one, a swap of the symlink in front of all of them
//! (Kubernetes' `..data`) and a write in place look alike. A look is a few `stat` calls. After a change all files are
//! read, and looked at again: if one changed meanwhile, all are read once more, so that certificate and key are of one
//! moment. A pair that does not match is caught in any case, as every identity is verified before it is used.
//!
//! What is broken counts for nothing by itself: certificate and key are used together or not at all, each file of
//! authorities keeps its last good ones, and so do the lists of revoked certificates. So a broken list does not keep a
//! new certificate from being used. Bundles of other trust domains and lists of revoked certificates may also stand
//! [beside](Beside) a source that is no file. As long as something is broken, everything is read again at each look: some things
//! heal by time alone.

mod parse;
mod reading;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::TrustDomain;
use mesh_core::model::{self, IdentityFiles, TrustFile};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use self::reading::{Contents, Own, Plan, Round, Seen};
use super::error::{IdentityError, Part};
use super::material::{Bundles, Material};
use super::source::IdentityUpdates;
use crate::observe::TARGET;

/// How long reading may take before that is a failure.
const MAX_READ: Duration = Duration::from_secs(10);
/// How many looks in a row may find the files changing while they are read before that is a failure.
const MAX_RESTLESS: u32 = 8;
/// The shortest pause between two looks.
const MIN_PAUSE: Duration = Duration::from_millis(10);

/// How often files are looked at that stand beside another source.
const PAUSE_BESIDE: Duration = Duration::from_secs(1);

/// Follows the files that `settings` name for as long as it is polled: all of an identity, or those that stand beside
/// another source. Ends at once if there are none.
pub(super) async fn run(settings: Arc<model::Identity>, updates: IdentityUpdates) {
    let plan = Plan::new(&settings);
    if plan.is_empty() {
        return;
    }
    let pause = plan.own.as_ref().map_or(PAUSE_BESIDE, |files| files.refresh_interval.max(MIN_PAUSE));
    let mut follower = Follower::new(plan);
    loop {
        follower.look(&updates).await;
        tokio::time::sleep(pause).await;
    }
}

/// What files say beside another source.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Beside {
    federated: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
    revocation_lists: Vec<CertificateRevocationListDer<'static>>,
}

impl Beside {
    /// Whether `settings` name such files.
    pub(super) fn is_wanted(settings: &model::Identity) -> bool {
        let plan = Plan::new(settings);
        plan.own.is_none() && !plan.is_empty()
    }

    /// Adds it to what was brought.
    pub(super) fn add_to(&self, material: &mut Material) {
        for (domain, authorities) in &self.federated {
            material.trust.others.entry(domain.clone()).or_default().extend_from_slice(authorities);
        }
        material.revocation_lists.extend_from_slice(&self.revocation_lists);
    }
}

struct Follower {
    plan: Arc<Plan>,
    /// How the files looked when they were last read.
    read: Option<Seen>,
    /// The same, once they need not be read again: nothing was broken, and they looked so at the read before. A file that
    /// was written twice within one tick of its clock looks the same after both.
    settled: Option<Seen>,
    /// Whether something was broken.
    is_broken: bool,
    restless: u32,
    trust: Option<Bundles>,
    federated: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
    revocation_lists: Option<Vec<CertificateRevocationListDer<'static>>>,
    /// What was last accepted.
    accepted: Option<Material>,
    /// The same where somebody else brings the identity.
    told: Option<Beside>,
    said_open: bool,
}

impl Follower {
    fn new(plan: Plan) -> Self {
        Self {
            plan: Arc::new(plan),
            read: None,
            settled: None,
            is_broken: false,
            restless: 0,
            trust: None,
            federated: BTreeMap::new(),
            revocation_lists: None,
            accepted: None,
            told: None,
            said_open: false,
        }
    }

    async fn look(&mut self, updates: &IdentityUpdates) {
        let (plan, settled) = (Arc::clone(&self.plan), self.settled.clone());
        let mut reading = tokio::task::spawn_blocking(move || reading::round(&plan, settled.as_ref()));
        let round = loop {
            // A file system that hangs holds one thread, and not one more at each look.
            match tokio::time::timeout(MAX_READ, &mut reading).await {
                Ok(Ok(round)) => break round,
                Ok(Err(error)) => return updates.failed(error),
                Err(_) => updates.failed(format_args!("the files were not read within {MAX_READ:?}")),
            }
        };
        match round {
            Round::Same => self.restless = 0,
            Round::Restless => {
                self.restless += 1;
                if self.restless >= MAX_RESTLESS {
                    updates.failed("the files change all the time while they are read");
                }
            }
            Round::Read(seen, contents) => {
                self.restless = 0;
                let problems = self.take(contents, updates);
                self.is_broken = !problems.is_empty();
                if self.is_broken {
                    updates.failed(problems.join("; "));
                }
                let is_settled = !self.is_broken && self.read.as_ref() == Some(&seen);
                self.settled = is_settled.then(|| seen.clone());
                self.read = Some(seen);
            }
        }
    }

    /// Uses what is good of `contents` and says what is not.
    fn take(&mut self, contents: Contents, updates: &IdentityUpdates) -> Vec<String> {
        let mut problems = Vec::new();
        self.read_beside(&contents, &mut problems);
        let is_complete = self.federated.len() == self.plan.federated.len()
            && (self.revocation_lists.is_some() || self.plan.revocation_list.is_none());
        match (&contents.own, Arc::clone(&self.plan).own.as_ref()) {
            (Some(contents), Some(files)) => self.take_own(files, contents, is_complete, &mut problems, updates),
            _ if is_complete => {
                let beside = self.beside();
                let is_healed = self.is_broken && problems.is_empty();
                if is_healed || self.told.as_ref() != Some(&beside) {
                    match updates.beside(beside.clone()) {
                        Ok(()) => self.told = Some(beside),
                        Err(error) => problems.push(error.to_string()),
                    }
                }
            }
            _ => {}
        }
        problems
    }

    fn take_own(
        &mut self,
        files: &IdentityFiles,
        contents: &Own,
        mut is_complete: bool,
        problems: &mut Vec<String>,
        updates: &IdentityUpdates,
    ) {
        if contents.key_is_open && !std::mem::replace(&mut self.said_open, true) {
            let path = files.key.display();
            tracing::info!(target: TARGET, %path, "the private key can be read by others than its owner");
        }
        let pair = read_pair(files, contents, problems);
        match read_trust(files, contents) {
            Ok(trust) => self.trust = Some(trust),
            Err(problem) => problems.push(problem),
        }
        is_complete &= self.trust.is_some();
        if !is_complete {
            return;
        }
        let refused = pair.and_then(|pair| {
            let material = self.complete(pair);
            let is_healed = self.is_broken && problems.is_empty();
            self.offer(material, is_healed, updates).err()
        });
        problems.extend(refused.map(|error| format!("{}: {error}", path_of(files, error.part()))));
        if !problems.is_empty()
            && let Some(last) = self.accepted.clone()
        {
            // What else is new counts with the last good pair.
            let material = self.complete(last);
            if let Err(error) = self.offer(material, false, updates) {
                let path = path_of(files, error.part());
                problems.push(format!("{path}, with the last good certificate: {error}"));
            }
        }
    }

    /// `is_healed`: also what is not new is of interest, because nothing is wrong any more.
    fn offer(&mut self, material: Material, is_healed: bool, updates: &IdentityUpdates) -> Result<(), IdentityError> {
        if is_healed || self.accepted.as_ref() != Some(&material) {
            updates.offer(material.clone())?;
            self.accepted = Some(material);
        }
        Ok(())
    }

    /// What is broken keeps its last good state.
    fn read_beside(&mut self, contents: &Contents, problems: &mut Vec<String>) {
        for ((domain, path), content) in self.plan.federated.iter().zip(&contents.federated) {
            match read(path, content, parse::authorities) {
                Ok(authorities) => _ = self.federated.insert(domain.clone(), authorities),
                Err(problem) => problems.push(problem),
            }
        }
        let Some(path) = &self.plan.revocation_list else { return };
        let lists = contents.revocation_lists.as_ref().map_err(|error| format!("{}: {error}", path.display()));
        let lists = lists.and_then(|files| {
            let lists = files.iter().map(|file| read(&file.path, &file.content, parse::revocation_lists));
            Ok(lists.collect::<Result<Vec<_>, _>>()?.concat())
        });
        match lists {
            Ok(lists) => self.revocation_lists = Some(lists),
            Err(problem) => problems.push(problem),
        }
    }

    fn beside(&self) -> Beside {
        let revocation_lists = self.revocation_lists.clone().unwrap_or_default();
        Beside { federated: self.federated.clone(), revocation_lists }
    }

    /// `pair` with whom to trust now.
    fn complete(&self, mut pair: Material) -> Material {
        pair.trust = self.trust.clone().unwrap_or_default();
        pair.revocation_lists = Vec::new();
        self.beside().add_to(&mut pair);
        pair
    }
}

/// Certificate and key, so far trusting nobody.
fn read_pair(files: &IdentityFiles, contents: &Own, problems: &mut Vec<String>) -> Option<Material> {
    let certificates = read(&files.certificate, &contents.certificate, parse::certificates);
    let certificates = certificates.map_err(|problem| problems.push(problem));
    let key = read(&files.key, &contents.key, parse::private_key).map_err(|problem| problems.push(problem));
    Some(Material::new(certificates.ok()?, key.ok()?, Bundles::default()))
}

fn read_trust(files: &IdentityFiles, contents: &Own) -> Result<Bundles, String> {
    match &files.trust {
        TrustFile::Pem(path) => read(path, &contents.trust, parse::authorities).map(Bundles::new),
        TrustFile::SpiffeBundleMap(path) => read(path, &contents.trust, parse::bundle_map),
        other => Err(format!("this version cannot read {other:?}")),
    }
}

fn path_of(files: &IdentityFiles, part: Part) -> String {
    match (part, &files.trust) {
        (Part::Key, _) => format!("{}, {}", files.certificate.display(), files.key.display()),
        (Part::Trust, TrustFile::Pem(path) | TrustFile::SpiffeBundleMap(path)) => path.display().to_string(),
        _ => files.certificate.display().to_string(),
    }
}

/// What `parse` makes of the file at `path`; the error names it.
fn read<T>(
    path: &Path,
    content: &Result<reading::Content, String>,
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<T, String> {
    let content = content.as_ref().map_err(Clone::clone);
    content.and_then(|content| parse(content)).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
