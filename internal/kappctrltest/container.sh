# $1 is the folder of the run; the rest is what to start.
dir=$1
shift
mount -t tmpfs tmpfs "$dir/room"
mkdir -p "$dir/room/etc/pki/tls/certs" "$dir/room/etc.work" "$dir/room/home/kapp-controller" "$dir/room/home.work"
touch "$dir/room/etc/pki/tls/certs/ca-bundle.crt.orig" "$dir/room/etc/pki/tls/certs/ca-bundle.crt"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$dir/room/etc,workdir=$dir/room/etc.work" /etc
# A home folder of the developer's may hold the programs: it is covered, not replaced.
mount -t overlay overlay -o "lowerdir=/home,upperdir=$dir/room/home,workdir=$dir/room/home.work" /home
mkdir "$dir/room/run"
mkdir -p "$dir/room/run/secrets/kubernetes.io" "$dir/room/run/kappctrl"
cp -r "$dir/account" "$dir/room/run/secrets/kubernetes.io/serviceaccount"
# Both containers share this one folder.
mount --bind "$dir/sock" "$dir/room/run/kappctrl"
mount --rbind "$dir/room/run" /run
exec "$@"
