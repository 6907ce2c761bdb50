//! Whom jobs run as: the identities of tenants, or the user who started the server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use nix::unistd::{Uid, User};

use crate::config::{IdentityOf, Raw, TenantTable};
use crate::session::{Home, Identity};
use crate::warden;

use super::SetupFailure;

/// Whom jobs run as.
pub(super) struct People {
    pub(super) identities: Vec<warden::Identity>,
    pub(super) by_tenant: BTreeMap<Arc<str>, Identity>,
}

impl People {
    pub(super) fn of(raw: &Raw) -> Result<Self, SetupFailure> {
        let mut people = Self { identities: Vec::new(), by_tenant: BTreeMap::new() };
        for (tenant, table) in &raw.tenant {
            let Some(identity) = &table.identity else { continue };
            let mut person = person(tenant, identity)?;
            if let Some(home) = &identity.home {
                person.home.clone_from(home);
            }
            if !Uid::effective().is_root() {
                return Err(SetupFailure::NotRoot(tenant.clone()));
            }
            let home = home(&person);
            let place = u32::try_from(people.identities.len()).ok();
            people.identities.push(person);
            people.by_tenant.insert(tenant.as_str().into(), Identity { place, home });
        }
        if people.by_tenant.is_empty() {
            people.by_tenant.insert("*".into(), Identity { place: None, home: home(&invoker()) });
        }
        Ok(people)
    }

    /// Tenants whose jobs the kernel does not tell apart.
    pub(super) fn shared(&self) -> Vec<String> {
        let mut tenants: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        for (tenant, identity) in &self.by_tenant {
            let place = identity.place.and_then(|place| usize::try_from(place).ok());
            if let Some(person) = place.and_then(|place| self.identities.get(place)) {
                tenants.entry(person.uid).or_default().push(tenant);
            }
        }
        let shared = tenants.into_iter().filter(|(_, tenants)| tenants.len() > 1);
        let told = |(uid, tenants): (u32, Vec<&str>)| {
            format!(
                "the jobs of the tenants {} run as one user, uid {uid}, who can read and stop what is his; give each an identity of \
                 its own",
                tenants.join(", ")
            )
        };
        shared.map(told).collect()
    }

    /// Homes that the configuration names and this host does not have.
    pub(super) fn homeless(raw: &Raw) -> Vec<String> {
        let missing = |(tenant, table): (&String, &TenantTable)| {
            let home = table.identity.as_ref()?.home.as_ref()?;
            (!home.is_dir()).then(|| {
                format!(
                    "tenant.{tenant}.identity.home: {} is no directory, so jobs start in / and may have nowhere to write; make it \
                     before the start, and that user's own",
                    home.display()
                )
            })
        };
        raw.tenant.iter().filter_map(missing).collect()
    }

    pub(super) fn root_jobs(&self) -> bool {
        let invoked = self.by_tenant.values().any(|identity| identity.place.is_none());
        (invoked && Uid::effective().is_root()) || self.identities.iter().any(|person| person.uid == 0)
    }
}

fn person(tenant: &str, identity: &IdentityOf) -> Result<warden::Identity, SetupFailure> {
    let uid = identity.uid.unwrap_or_default();
    let Some(name) = &identity.user else {
        let known = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| of_user(&user));
        let nameless = warden::Identity {
            uid,
            gid: 0,
            groups: Vec::new(),
            user: uid.to_string(),
            home: PathBuf::from("/"),
            shell: PathBuf::from("/bin/sh"),
        };
        let groups = identity.groups.clone().unwrap_or_default();
        return Ok(warden::Identity {
            gid: identity.gid.unwrap_or_default(),
            groups,
            ..known.unwrap_or(nameless)
        });
    };
    let no_user = || SetupFailure::NoUser { tenant: tenant.to_owned(), user: name.clone() };
    let user = User::from_name(name).ok().flatten().ok_or_else(no_user)?;
    Ok(warden::Identity { groups: groups_of(&user), ..of_user(&user) })
}

/// The supplementary groups that a login would give the user.
fn groups_of(user: &User) -> Vec<u32> {
    let name = std::ffi::CString::new(user.name.as_str()).unwrap_or_default();
    let groups = nix::unistd::getgrouplist(&name, user.gid).unwrap_or_default();
    groups.into_iter().map(nix::unistd::Gid::as_raw).collect()
}

fn of_user(user: &User) -> warden::Identity {
    warden::Identity {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        groups: Vec::new(),
        user: user.name.clone(),
        home: user.dir.clone(),
        shell: user.shell.clone(),
    }
}

/// The user who started the server.
pub(super) fn invoker() -> warden::Identity {
    let uid = Uid::effective();
    match User::from_uid(uid).ok().flatten() {
        Some(user) => of_user(&user),
        None => warden::Identity {
            uid: uid.as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            groups: Vec::new(),
            user: uid.to_string(),
            home: PathBuf::from("/"),
            shell: PathBuf::from("/bin/sh"),
        },
    }
}

pub(super) fn home(person: &warden::Identity) -> Home {
    let there = person.home.is_dir();
    Home {
        user: person.user.clone(),
        home: if there { person.home.display().to_string() } else { "/".to_owned() },
        shell: person.shell.display().to_string(),
    }
}
