# bash completion for drover
_drover() {
	local out
	mapfile -t out < <("${COMP_WORDS[0]}" __complete bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
	COMPREPLY=()
	if [[ ${out[0]} == :files ]]; then
		compopt -o default 2>/dev/null
		return
	fi
	COMPREPLY=("${out[@]}")
	[[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
}
complete -F _drover drover
