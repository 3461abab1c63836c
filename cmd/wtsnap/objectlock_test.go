package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/whole-tale/wtsnap/repo/storage/rclone/rclonetest"
)

// TestObjectLock has whoever broke into a machine destroy all that its account can, in a bucket with versions and object lock,
// and brings everything back as operations.md says. "make test-slow" builds the server.
func TestObjectLock(t *testing.T) {
	program := os.Getenv("WTSNAP_MINIO")
	if program == "" {
		t.Skip("WTSNAP_MINIO names no MinIO server: make test-slow builds one and sets it")
	}
	clearEnvironment(t)
	endpoint := rclonetest.MinIO(t, program)
	t.Run("may not delete, governance", func(t *testing.T) {
		testObjectLock(t, endpoint, "first", types.ObjectLockRetentionModeGovernance, false)
	})
	t.Run("may delete, compliance", func(t *testing.T) {
		testObjectLock(t, endpoint, "second", types.ObjectLockRetentionModeCompliance, true)
	})
}

func testObjectLock(t *testing.T, endpoint, bucket string, mode types.ObjectLockRetentionMode, deletes bool) {
	b := newLockedBucket(t, endpoint, bucket, mode, deletes)
	r := newRemote(t, "host:"+bucket+"/repo")
	b.configure(r)
	r.run(0, "init", "--new-key-file", "key")
	out := r.run(0, "backup", "src")
	if note := strings.Contains(out, "may not remove anything here"); note == deletes {
		t.Errorf("an account that may delete: %v, and the backup says:\n%s", deletes, out)
	}
	first := r.files("src")
	r.write("a", 310_000)
	r.write("b", 200_000)
	r.run(0, "backup", "src")
	second := r.files("src")

	before := b.versions()
	if deletes { // a lock does not keep a prune from its work: what it removes is hidden, not gone
		r.run(0, "forget", "--keep-last", "1", "--prune", "--grace", "0")
		b.keeps(before)
	}
	b.attack()
	b.keeps(before)
	gone := 13
	if deletes {
		gone = 10
	}
	r.run(gone, "--cache-dir", "none", "snapshots")

	// The instant of the newest object, as it was stored: all of the attack is later.
	var last time.Time
	for _, v := range before {
		if v.modified.After(last) {
			last = v.modified
		}
	}
	view := fmt.Sprintf(`person,version_at="%s":%s/repo`, last.UTC().Format(time.RFC3339Nano), bucket)
	turn := 0
	restored := func(repo, key, what, want string) {
		t.Helper()
		turn++
		to := fmt.Sprint("out", turn)
		r.run(0, "-r", repo, "-p", key, "restore", what+":src", "--to", to, "-q")
		if got := r.files(to); got != want {
			t.Errorf("%s of %s is not what was saved:\n%s", what, repo, got)
		}
	}
	r.says(r.run(0, "-r", view, "check", "--read-data"), "no damage found")
	restored(view, "key", "latest", second)
	restored(view, "key", "latest~1", first)

	// Nothing is written there: not by whom may do anything, and not to the bucket behind it.
	attacked := b.versions()
	out = r.run(1, "-r", view, "backup", "src")
	r.says(out, "version")
	if now := b.versions(); len(now) != len(attacked) {
		t.Errorf("%d objects, %d before a backup into the view", len(now), len(attacked))
	}

	next := "person:" + bucket + "-next/repo"
	r.run(0, "init", "-r", next, "--new-key-file", "next.key", "--copy-parameters-from", view, "--from-password-file", "key")
	r.says(r.run(0, "-r", view, "copy", "--to-repo", next, "--to-password-file", "next.key"), "copied")
	r.run(0, "-r", next, "-p", "next.key", "check", "--read-data")
	restored(next, "next.key", "latest", second)
	restored(next, "next.key", "latest~1", first)
	r.run(0, "-r", next, "-p", "next.key", "backup", "src")
}

// attempts are enough for a server that has just been started.
const attempts = 30

// lockedBucket is a bucket as operations.md wants it.
type lockedBucket struct {
	t        *testing.T
	endpoint string
	name     string
	deletes  bool // the host's account may delete
	mode     types.ObjectLockRetentionMode
	person   *s3.Client       // whom all belongs to
	host     *s3.Client       // with the account of the machine that is backed up
	account  *aws.Credentials // and this is it
}

func newLockedBucket(t *testing.T, endpoint, name string, mode types.ObjectLockRetentionMode, deletes bool) *lockedBucket {
	t.Helper()
	b := &lockedBucket{t: t, endpoint: endpoint, name: name, mode: mode, deletes: deletes}
	root := credentials.NewStaticCredentialsProvider(rclonetest.MinIOUser, rclonetest.MinIOSecret, "")
	b.person = b.client(root)
	b.must(func(ctx context.Context) error {
		_, err := b.person.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name, ObjectLockEnabledForBucket: aws.Bool(true)})
		return err
	})
	b.must(func(ctx context.Context) error { return b.lock(ctx, b.person, 1) })
	b.must(func(ctx context.Context) error {
		// A person's account narrowed to a policy: what a user with that policy may.
		out, err := sts.New(sts.Options{BaseEndpoint: &endpoint, Region: "us-east-1", Credentials: root, RetryMaxAttempts: attempts}).AssumeRole(ctx, &sts.AssumeRoleInput{
			RoleArn: aws.String("arn:xxx:xxx:xxx:xxxx"), RoleSessionName: aws.String("host"), Policy: aws.String(b.policy()),
		})
		if err == nil {
			c := out.Credentials
			b.account = &aws.Credentials{AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken}
		}
		return err
	})
	b.host = b.client(credentials.StaticCredentialsProvider{Value: *b.account})
	return b
}

// policy is the one that operations.md shows.
func (b *lockedBucket) policy() string {
	objects := `"s3:GetObject", "s3:PutObject"`
	if b.deletes {
		objects += `, "s3:DeleteObject"`
	}
	return fmt.Sprintf(`{
		"Version": "2012-10-17",
		"Statement": [
			{"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": "arn:aws:s3:::%s"},
			{"Effect": "Allow", "Action": [%s], "Resource": "arn:aws:s3:::%[1]s/*"}
		]
	}`, b.name, objects)
}

func (b *lockedBucket) client(c aws.CredentialsProvider) *s3.Client {
	return s3.New(s3.Options{BaseEndpoint: &b.endpoint, Region: "us-east-1", Credentials: c, UsePathStyle: true, RetryMaxAttempts: attempts})
}

func (b *lockedBucket) must(do func(ctx context.Context) error) {
	b.t.Helper()
	if err := do(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

// lock sets for how many days each new object is kept.
func (b *lockedBucket) lock(ctx context.Context, by *s3.Client, days int32) error {
	_, err := by.PutObjectLockConfiguration(ctx, &s3.PutObjectLockConfigurationInput{
		Bucket: &b.name,
		ObjectLockConfiguration: &types.ObjectLockConfiguration{
			ObjectLockEnabled: types.ObjectLockEnabledEnabled,
			Rule:              &types.ObjectLockRule{DefaultRetention: &types.DefaultRetention{Mode: b.mode, Days: &days}},
		},
	})
	return err
}

// configure writes the remotes of both accounts.
func (b *lockedBucket) configure(r *remote) {
	b.t.Helper()
	config := fmt.Sprintf(`[host]
type = s3
provider = Minio
endpoint = %s
access_key_id = %s
secret_access_key = %s
session_token = %s

[person]
type = s3
provider = Minio
endpoint = %[1]s
access_key_id = %[5]s
secret_access_key = %[6]s
`, b.endpoint, b.account.AccessKeyID, b.account.SecretAccessKey, b.account.SessionToken, rclonetest.MinIOUser, rclonetest.MinIOSecret)
	if err := os.WriteFile(r.path("rclone.conf"), []byte(config), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// objectVersion is one version of an object that holds something.
type objectVersion struct {
	key, id  string
	modified time.Time
}

// versions lists all that are there, deleted or not.
func (b *lockedBucket) versions() (all []objectVersion) {
	b.t.Helper()
	pages := s3.NewListObjectVersionsPaginator(b.person, &s3.ListObjectVersionsInput{Bucket: &b.name})
	for pages.HasMorePages() {
		page, err := pages.NextPage(b.t.Context())
		if err != nil {
			b.t.Fatal(err)
		}
		for _, v := range page.Versions {
			all = append(all, objectVersion{*v.Key, *v.VersionId, *v.LastModified})
		}
	}
	return all
}

// current are the objects that the host sees.
func (b *lockedBucket) current() (keys []string) {
	b.t.Helper()
	pages := s3.NewListObjectsV2Paginator(b.host, &s3.ListObjectsV2Input{Bucket: &b.name})
	for pages.HasMorePages() {
		page, err := pages.NextPage(b.t.Context())
		if err != nil {
			b.t.Fatal(err)
		}
		for _, o := range page.Contents {
			keys = append(keys, *o.Key)
		}
	}
	return keys
}

// attack does what the host's account can do to each object, and tries what it must not be able to.
func (b *lockedBucket) attack() {
	b.t.Helper()
	ctx := b.t.Context()
	keys := b.current()
	for _, key := range keys {
		head, err := b.host.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.name, Key: &key})
		if err != nil {
			b.t.Fatal(err)
		}
		b.refused(b.host, key, *head.VersionId)
		if _, err := b.host.PutObject(ctx, &s3.PutObjectInput{Bucket: &b.name, Key: &key, Body: strings.NewReader("garbage")}); err != nil {
			b.t.Fatalf("overwriting %s: %v", key, err)
		}
		_, err = b.host.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.name, Key: &key})
		if b.deletes && err != nil {
			b.t.Fatalf("deleting %s: %v", key, err)
		} else if !b.deletes {
			b.denied("deleting "+key, err)
		}
	}
	if left := b.current(); b.deletes && len(left) > 0 {
		b.t.Fatalf("left after all was deleted: %v", left)
	}
	_, err := b.host.PutBucketVersioning(ctx, &s3.PutBucketVersioningInput{
		Bucket: &b.name, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusSuspended},
	})
	b.denied("suspending versions", err)
	b.denied("unlocking the bucket", b.lock(ctx, b.host, 0))
	_, err = b.host.PutBucketLifecycleConfiguration(ctx, &s3.PutBucketLifecycleConfigurationInput{
		Bucket: &b.name, LifecycleConfiguration: &types.BucketLifecycleConfiguration{Rules: []types.LifecycleRule{{
			Status: types.ExpirationStatusEnabled, Filter: &types.LifecycleRuleFilter{Prefix: aws.String("")},
			NoncurrentVersionExpiration: &types.NoncurrentVersionExpiration{NoncurrentDays: aws.Int32(1)},
		}}},
	})
	b.denied("making versions expire", err)
}

// refused tries what would destroy a version.
func (b *lockedBucket) refused(by *s3.Client, key, version string) {
	b.t.Helper()
	ctx := b.t.Context()
	_, err := by.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.name, Key: &key, VersionId: &version})
	b.denied("deleting a version of "+key, err)
	_, err = by.DeleteObject(ctx, &s3.DeleteObjectInput{
		Bucket: &b.name, Key: &key, VersionId: &version, BypassGovernanceRetention: aws.Bool(true),
	})
	b.denied("deleting a version of "+key+" past its lock", err)
	until := time.Now().Add(time.Minute)
	_, err = by.PutObjectRetention(ctx, &s3.PutObjectRetentionInput{
		Bucket: &b.name, Key: &key, VersionId: &version, BypassGovernanceRetention: aws.Bool(true),
		Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionModeGovernance, RetainUntilDate: &until},
	})
	b.denied("shortening the lock of "+key, err)
}

// denied fails the test unless the server refused it, by the account's policy or by the lock.
func (b *lockedBucket) denied(what string, err error) {
	b.t.Helper()
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok || api.ErrorCode() != "AccessDenied" && !strings.Contains(api.ErrorMessage(), "WORM protected") {
		b.t.Fatalf("%s: %v, want it denied", what, err)
	}
}

// keeps fails the test unless each of these versions is there, and locked for the person, too.
func (b *lockedBucket) keeps(before []objectVersion) {
	b.t.Helper()
	there := map[string]bool{}
	for _, v := range b.versions() {
		there[v.key+v.id] = true
	}
	for _, v := range before {
		if !there[v.key+v.id] {
			b.t.Fatalf("a version of %s is gone", v.key)
		}
	}
	// Governance yields to the person who asks for it; compliance to nobody.
	v := before[0]
	in := s3.DeleteObjectInput{Bucket: &b.name, Key: &v.key, VersionId: &v.id}
	_, err := b.person.DeleteObject(b.t.Context(), &in)
	b.denied("deleting a version by mistake", err)
	if b.mode == types.ObjectLockRetentionModeCompliance {
		b.refused(b.person, v.key, v.id)
	}
}
