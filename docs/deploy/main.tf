# Brings up a machine (here with OpenStack; only the resource differs elsewhere) that restores an instance into itself if
# var.wtsnap_restore_from names one, and backs itself up from then on.
#
#   terraform apply -var wtsnap_repo=box:wtsnap -var wtsnap_restore_from=production \
#     -var 'wtsnap_restore_flags=--map homes=/srv/homes --to-mongo mongodb://localhost/?replicaSet=rs1'
#
# Applying it again changes nothing: the user data are the same, and what they do is done once.

variable "wtsnap_url" {
  description = "where the wtsnap binary is downloaded"
  type        = string
}

variable "wtsnap_repo" {
  description = "the repository: remote:path of the rclone configuration"
  type        = string
}

variable "wtsnap_instance" {
  description = "the instance that this machine is"
  type        = string
  default     = "production"
}

variable "wtsnap_restore_from" {
  description = "the instance to restore at first; empty: none"
  type        = string
  default     = ""
}

variable "wtsnap_restore_flags" {
  description = "where its labels go, and the MongoDB: flags of wtsnap restore --all"
  type        = string
  default     = "--map homes=/srv/homes --to-mongo none"
}

variable "wtsnap_password_file" {
  description = "the file with the repository's password"
  type        = string
}

variable "rclone_conf" {
  description = "the rclone configuration"
  type        = string
}

resource "openstack_compute_instance_v2" "fileserver" {
  name        = "wt-${var.wtsnap_instance}-fileserver"
  image_name  = "debian-12"
  flavor_name = "m1.large"

  # The user data hold the password: whoever can read the machine's metadata can read the backup. Where that is too many,
  # leave wtsnap_password out and bring the file by another way (docs/operations.md).
  user_data = templatefile("${path.module}/cloud-init.yml", {
    wtsnap_url                = var.wtsnap_url
    wtsnap_repo               = var.wtsnap_repo
    wtsnap_instance           = var.wtsnap_instance
    wtsnap_restore_from       = var.wtsnap_restore_from
    wtsnap_restore_flags      = var.wtsnap_restore_flags
    wtsnap_password           = trimspace(file(var.wtsnap_password_file))
    wtsnap_rclone_conf_base64 = filebase64(var.rclone_conf)
  })
}
