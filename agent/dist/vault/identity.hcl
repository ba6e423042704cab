# What the agent's own identity needs in Vault or OpenBao (see [vault.identity] of quaymaster.toml):
#
#   bao policy write quaymaster identity.hcl
#   bao auth enable approle
#   bao write auth/approle/role/quaymaster token_policies=quaymaster token_type=service token_period=24h
#
# A periodic token lives as long as the agent renews it, and with it every credential that the agent
# keeps fresh. Batch tokens cannot hold credentials and are refused.

# One token is made for each credential, so that ending the token ends the credential for sure, even
# where the answer with the lease was lost. Children get the policies of the agent's token.
path "auth/token/create" {
  capabilities = ["update"]
}

# Ends such a token and its credential: after a change, or when a run failed.
path "auth/token/revoke-accessor" {
  capabilities = ["update"]
}

# Keeps such a token alive for as long as its credential is in use.
path "auth/token/renew-accessor" {
  capabilities = ["update"]
}

# Looks whether the agent's token is alive: at start, and at the first refusal. Part of `default` too.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

# Keeps the agent's token alive. Part of `default` too.
path "auth/token/renew-self" {
  capabilities = ["update"]
}

# Renews credentials. Without it they are replaced before they end, which restarts applications.
path "sys/leases/renew" {
  capabilities = ["update"]
}

# Says how long a credential lives that cannot be renewed.
path "sys/leases/lookup" {
  capabilities = ["update"]
}

# Ends a credential by its lease. Part of no default policy.
path "sys/leases/revoke" {
  capabilities = ["update"]
}

# Says what a token may use, before a credential is issued for it. Part of `default` too.
path "sys/capabilities-self" {
  capabilities = ["update"]
}

# Says which engine serves a path, so that nobody has to write `data/`.
path "sys/internal/ui/mounts/*" {
  capabilities = ["read"]
}

# The secrets that are kept fresh: change the paths to yours, and add no more than rules allow.
path "kv/data/flask/*" {
  capabilities = ["read"]
}

# Versions without values: what tells that a KV v2 secret has changed, one secret at a time.
path "kv/metadata/flask/*" {
  capabilities = ["read"]
}

# The same for whole folders at once, which only OpenBao can: one request a second keeps a folder
# fresh. Name the folder itself (its secrets are listed in it) and those below it.
path "kv/detailed-metadata/flask" {
  capabilities = ["list"]
}
path "kv/detailed-metadata/flask/*" {
  capabilities = ["list"]
}

# Credentials that are issued: by a read, or by a write where a spec has `params`.
path "database/creds/flask" {
  capabilities = ["read"]
}
path "pki/issue/flask" {
  capabilities = ["update"]
}
