# The login shell of a Berth session: a terminal, a locale and a greeting. For no greeting: touch ~/.hushlogin
if [ -n "${TERM-}" ] && command -v infocmp >/dev/null && ! infocmp "$TERM" >/dev/null 2>&1; then
  export TERM=xterm-256color # most terminals that the image does not know are like it
fi
if [ -n "${BERTH_LANG-}" ]; then
  [ -n "${LANG-}" ] || export LANG="$BERTH_LANG"
  if [ -n "$(locale 2>&1 >/dev/null)" ]; then # it complains of what the image lacks
    {
      export LANG=C.UTF-8
      unset LC_ALL LC_CTYPE LC_COLLATE LC_MESSAGES LC_NUMERIC LC_TIME LC_MONETARY LC_PAPER LC_NAME LC_ADDRESS
      unset LC_TELEPHONE LC_MEASUREMENT LC_IDENTIFICATION
    } 2>/dev/null # bash complains of each that is still there
  fi
fi
berth_greeting() (
  gpu='no GPU'
  if [ "${SLURM_GPUS_ON_NODE:-0}" -gt 0 ]; then
    gpu="GPU ${SLURM_JOB_GPUS:-$SLURM_GPUS_ON_NODE of them}"
  elif [ "${SLURM_SHARDS_ON_NODE:-0}" -gt 0 ]; then
    gpu='a share of a GPU'
  fi
  echo "session   $BERTH_SESSION_NAME, ${BERTH_PROFILE:-no profile}${BERTH_PROFILE_VERSION:+@$BERTH_PROFILE_VERSION}"
  echo "node      ${SLURMD_NODENAME-}, $gpu"
  mib=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * ${SLURM_CPUS_ON_NODE:-0}))}
  memory="$mib MiB"
  [ $((mib % 1024)) -ne 0 ] || memory="$((mib / 1024)) GiB"
  [ "$mib" -gt 0 ] || memory="the node's"
  case ${BERTH_TMP-} in
    disk)
      set -- $(df -Pk /tmp 2>/dev/null | tail -n 1)
      memory="$memory; /tmp is on the node's disk${4:+, $(($4 / 1048576)) GiB free}"
      ;;
    memory) memory="$memory; files in /tmp count as memory" ;;
  esac
  echo "memory    $memory"
  if [ -n "${SLURM_JOB_END_TIME-}" ]; then
    left=$(((SLURM_JOB_END_TIME - $(date +%s)) / 60))
    [ "$left" -ge 0 ] || left=0
    days='' hours=''
    [ "$left" -lt 1440 ] || days="$((left / 1440)) d "
    [ "$left" -lt 60 ] || hours="$((left % 1440 / 60)) h "
    echo "time left $days$hours$((left % 60)) min, until $(date -d "@$SLURM_JOB_END_TIME" '+%F %R')"
  fi
  # What has happened since the job was submitted, or else before that.
  before=$(sed -n 's/^before=//p' /run/berth/session/remark 2>/dev/null)
  before=${before:-${BERTH_BEFORE-}}
  [ -z "$before" ] || echo "before    $before"
  sed -n 's/^notice=/notice    /p' /run/berth/session/remark 2>/dev/null || :
  sed -n 's/^\(watch\|pair\|use\) \([a-z_][a-z0-9_.-]*\)$/guest     \2 (\1)/p' /run/berth/session/guests 2>/dev/null || :
  # How many, and of the newest its number, its time and its label.
  set -- $(sed -n 's/^ "newest": "\(.*\)",$/\1/p' /run/berth/record/volumes.json 2>/dev/null)
  if [ $# -ge 3 ]; then
    echo "snapshots $1, last: number $2${4:+ ($4)} of $(date -d "@$3" '+%F %R')"
  else
    echo "snapshots none"
  fi
  sed -n 's/^ "unflattened": "\(..*\)",\{0,1\}$/layers    cannot be joined: \1/p' /run/berth/record/volumes.json 2>/dev/null || :
)
case $- in
  *i*) # the ssh login's own shell, not one that a program in it opens
    [ -z "${SSH_TTY-}" ] || [ "${SHLVL:-1}" != 1 ] || [ ! -t 1 ] || [ -e "$HOME/.hushlogin" ] || berth_greeting
    ;;
esac
unset -f berth_greeting
