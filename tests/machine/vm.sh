# shellcheck shell=bash
# The emulated machine: start it, run commands in it, cut its power. $RUN is this run's folder, $IMAGE the image's, $ARCH its
# architecture. Its cable is the tap device $CABLE of this network namespace; commands go by ssh over the emulator's own network.
PORT=${PORT:-2222} CABLE=${CABLE:-cable}

vm_options=(
  -q -i "$IMAGE/../key" -p "$PORT" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=10
  -o ServerAliveInterval=15 -o ServerAliveCountMax=8 -o ControlMaster=auto -o ControlPath="$RUN/ssh" -o ControlPersist=yes
)

vm_emulator() {
  case $ARCH in
    amd64) printf '%s\n' qemu-system-x86_64 -M q35 -cpu max ;;
    arm64) printf '%s\n' qemu-system-aarch64 -M virt -cpu cortex-a72 ;;
  esac
}

# Power on. Its disk is $RUN/disk.ext4.
vm_start() {
  local emulator console=ttyS0
  mapfile -t emulator < <(vm_emulator)
  [ "$ARCH" = amd64 ] || console=ttyAMA0
  rm -f "$RUN/monitor.in" "$RUN/monitor.out"
  mkfifo "$RUN/monitor.in" "$RUN/monitor.out"
  "${emulator[@]}" -smp 2 -m 1024 -accel tcg,thread=multi,tb-size=256 -nodefaults -no-user-config -display none -rtc base=utc \
    -kernel "$IMAGE/vmlinuz" -initrd "$IMAGE/initrd" \
    -append "root=/dev/vda rw console=$console quiet loglevel=4 systemd.show_status=0 mitigations=off" \
    -drive file="$RUN/disk.ext4",if=none,id=disk,format=raw,cache=unsafe -device virtio-blk-pci,drive=disk \
    -netdev tap,id=cable,ifname="$CABLE",script=no,downscript=no,vhost=off \
    -device virtio-net-pci,netdev=cable,mac=52:54:00:00:00:01,romfile= \
    -netdev user,id=mgmt,restrict=on,hostfwd=tcp:127.0.0.1:"$PORT"-10.0.2.15:22 \
    -device virtio-net-pci,netdev=mgmt,mac=52:54:00:00:00:02,romfile= \
    -device virtio-rng-pci -serial file:"$RUN/console.log" -monitor pipe:"$RUN/monitor" >"$RUN/emulator.log" 2>&1 &
  echo $! >"$RUN/emulator.pid"
}

# A command of the emulator's monitor, such as system_reset (the power is cut and comes back at once).
vm_monitor() {
  echo "$*" >"$RUN/monitor.in"
  timeout 2 cat "$RUN/monitor.out" >>"$RUN/monitor.log" || true
}

vm_runs() { kill -0 "$(cat "$RUN/emulator.pid")" 2>/dev/null; }

# A command in the machine, as root.
vm() { ssh "${vm_options[@]}" root@127.0.0.1 "$@"; }

# vm_put TO FROM NAME...: files of a folder here into one of the machine.
vm_put() { tar -C "$2" -cf - "${@:3}" | vm "mkdir -p $1 && tar -C $1 --no-same-owner -xf -"; }

# Until commands run in it: for the first time, or after a restart. Ten minutes, for a machine that is busy with much else.
vm_wait() {
  local deadline=$((SECONDS + 600))
  ssh "${vm_options[@]}" -O exit root@127.0.0.1 2>/dev/null || true
  rm -f "$RUN/ssh"
  until vm true 2>/dev/null; do
    vm_runs || { echo "the emulator ended:"; cat "$RUN/emulator.log"; return 1; }
    [ $SECONDS -lt $deadline ] || { echo "no answer from the machine:"; tail -n 20 "$RUN/console.log"; return 1; }
    sleep 0.5
  done
}

# The identity of the boot that the machine is in.
vm_boot_id() { vm cat /proc/sys/kernel/random/boot_id; }
