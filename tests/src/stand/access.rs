//! Rights in the cluster: what the agent's own identity may do, and what a project is granted.
//!
//! Called by `servers` for the sample and by scenarios for projects of their own. Invariant: the agent itself
//! may impersonate and ask, nothing else; every other right hangs on GitLab's names of the job.

use anyhow::Result;
use serde_json::Value;
use serde_json::json;

use super::kubernetes::Cluster;

/// Gives the agent's identity its few rights.
///
/// # Errors
/// When the cluster refuses.
pub async fn agent(cluster: &Cluster) -> Result<()> {
    // RBAC cannot match names by prefix, so `gitlab:*` cannot be said here; no admin group is reachable by it
    // in the agent, which only ever names GitLab's. Discovery comes with `system:discovery`.
    let rules = json!([
        { "apiGroups": [""], "resources": ["users", "groups"], "verbs": ["impersonate"] },
        { "apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews"], "verbs": ["create"] },
    ]);
    let role = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": { "name": "quaymaster-agent" }, "rules": rules });
    let binding = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": { "name": "quaymaster-agent" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "quaymaster-agent" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "quaymaster-agent" }] });
    cluster.apply(&list(vec![role, binding])).await
}

/// Makes `namespace` and lets jobs of project `project_id` deploy into it.
///
/// # Errors
/// When the cluster refuses.
pub async fn grant_project(cluster: &Cluster, namespace: &str, project_id: &str) -> Result<()> {
    let verbs = json!([
        "get", "list", "watch", "create", "update", "patch", "delete"
    ]);
    let rules = json!([
        { "apiGroups": ["apps"], "resources": ["deployments", "statefulsets", "daemonsets", "replicasets"], "verbs": verbs },
        { "apiGroups": ["batch"], "resources": ["jobs", "cronjobs"], "verbs": verbs },
        { "apiGroups": [""], "resources": ["pods", "services", "configmaps", "secrets", "persistentvolumeclaims"], "verbs": verbs },
        { "apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": verbs },
        { "apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["get", "list", "watch", "create"] },
        { "apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"] },
        { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"] },
    ]);
    let name = json!({ "name": "gitlab-deployer", "namespace": namespace });
    let api = "rbac.authorization.k8s.io";
    let group = format!("gitlab:project:{project_id}");
    cluster
        .apply(&list(vec![
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }),
            json!({ "apiVersion": format!("{api}/v1"), "kind": "Role", "metadata": name, "rules": rules }),
            json!({ "apiVersion": format!("{api}/v1"), "kind": "RoleBinding", "metadata": name,
                "roleRef": { "apiGroup": api, "kind": "Role", "name": "gitlab-deployer" },
                "subjects": [{ "apiGroup": api, "kind": "Group", "name": group }] }),
        ]))
        .await
}

/// Makes a namespace of the agents' own: what agent/dist/rbac/rotation.yaml says, under this name.
///
/// # Errors
/// When the cluster refuses, or the file is no YAML of that form.
pub async fn grant_agents(cluster: &Cluster, namespace: &str) -> Result<()> {
    let delivered = include_str!("../../../agent/dist/rbac/rotation.yaml");
    let renamed = delivered
        .replace(
            "namespace: quaymaster\n",
            &format!("namespace: {namespace}\n"),
        )
        .replace("  name: quaymaster\n", &format!("  name: {namespace}\n"));
    cluster.apply_text(&renamed).await
}

fn list(items: Vec<Value>) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}
