# Reads and checks run/job.env.

read_job_env() { # FILE: sets the keys known here; never evaluates a value
  local line number=0
  # shellcheck disable=SC2034 # read by name in require_key()
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    [[ $line =~ ^([A-Z][A-Z0-9_]*)=([^[:cntrl:]]*)$ ]] || die "$BAD_JOB_ENV" "run/job.env, line $number: not KEY=VALUE"
    case ${BASH_REMATCH[1]} in
      BERTH_SESSION_ID | BERTH_SESSION_NAME | BERTH_OWNER | BERTH_SUBMISSION | BERTH_PROFILE | BERTH_PROFILE_VERSION | \
        BERTH_IMAGE | BERTH_IMAGE_SIZE | BERTH_IMAGE_OFFSET | BERTH_BINDS | BERTH_HOME | BERTH_SYSTEM | BERTH_KEEP | \
        BERTH_FRESH | BERTH_ROOT | BERTH_SAVE_EVERY | BERTH_BEFORE | BERTH_PORTS | BERTH_SUBMISSION_DIRECTORY | \
        BERTH_LOCK_WAIT | BERTH_SHOW_NAME | BERTH_TMP_DIRECTORIES | BERTH_JOB | \
        BERTH_READY_LIMIT | BERTH_CHECKS | BERTH_APPTAINER | BERTH_SCONTROL)
        printf -v "${BASH_REMATCH[1]}" %s "${BASH_REMATCH[2]}"
        ;;
    esac
  done <"$1"
}

require_key() { # KEY PATTERN
  [[ ${!1:-} =~ ^($2)$ ]] || die "$BAD_JOB_ENV" "run/job.env: $1 is missing or malformed"
}

check_job_env() {
  local path='/[^,:]*' word='[A-Za-z0-9._-]+'
  require_key BERTH_SESSION_ID "$word"
  require_key BERTH_SESSION_NAME "$word"
  require_key BERTH_SUBMISSION "$word"
  require_key BERTH_OWNER "$word"
  require_key BERTH_IMAGE "$path"
  require_key BERTH_IMAGE_SIZE '[0-9]+'
  require_key BERTH_IMAGE_OFFSET '[0-9]+'
  require_key BERTH_HOME 'keep|fresh'
  require_key BERTH_SYSTEM 'keep|fresh'
  require_key BERTH_KEEP "|$path(,$path)*"
  require_key BERTH_FRESH "|$path(,$path)*"
  require_key BERTH_ROOT '|yes'
  require_key BERTH_SUBMISSION_DIRECTORY '|yes'
  require_key BERTH_SHOW_NAME '|yes'
  require_key BERTH_TMP_DIRECTORIES "$path(,$path)*"
  require_key BERTH_BINDS "|$path:$path(:ro)?(,$path:$path(:ro)?)*"
  require_key BERTH_LOCK_WAIT '[0-9]{1,4}'
  require_key BERTH_JOB '|[1-9][0-9]{0,9}'
  require_key BERTH_READY_LIMIT '|[1-9][0-9]{0,4}'
  require_key BERTH_CHECKS '|yes'
  require_key BERTH_SAVE_EVERY '[1-9][0-9]{0,6}'
  require_key BERTH_PORTS '[1-9][0-9]{3,4}-[1-9][0-9]{3,4}'
  ((${BERTH_PORTS%-*} <= ${BERTH_PORTS#*-} && ${BERTH_PORTS#*-} <= 65535)) || die "$BAD_JOB_ENV" "run/job.env: BERTH_PORTS"
  case ,$BERTH_KEEP,$BERTH_FRESH, in
    *,/,* | *,/home,* | *,/home/"$BERTH_OWNER",*)
      die "$BAD_JOB_ENV" "run/job.env: a whole side is in BERTH_KEEP or BERTH_FRESH"
      ;;
  esac
  [[ $BERTH_OWNER == "$(id -un)" ]] || die "$BAD_JOB_ENV" "run/job.env: the owner is $BERTH_OWNER, not you"
}

# shellcheck disable=SC2034 # a batch job uses some of them
load_job_env() {
  BERTH_BINDS='' BERTH_LOCK_WAIT=10 BERTH_PORTS=20000-32767 BERTH_APPTAINER=apptainer BERTH_SCONTROL=scontrol
  BERTH_PROFILE='' BERTH_PROFILE_VERSION='' BERTH_BEFORE='' BERTH_HOME=keep BERTH_SYSTEM=keep BERTH_KEEP='' BERTH_FRESH='' BERTH_ROOT=''
  BERTH_SAVE_EVERY=600 BERTH_SHOW_NAME='' BERTH_TMP_DIRECTORIES=/tmp,/var/tmp BERTH_JOB='' BERTH_READY_LIMIT='' BERTH_CHECKS=''
  [[ -O $DIRECTORY/run/job.env && -f $DIRECTORY/run/job.env ]] || die "$BAD_JOB_ENV" "no $DIRECTORY/run/job.env of yours"
  read_job_env "$DIRECTORY/run/job.env"
  check_job_env
}
